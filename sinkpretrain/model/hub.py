"""The hub's Llama beside ours: what its configuration says as a `ModelConfig`, and the names of its parameters."""

from typing import Any

import torch
from torch import Tensor

from sinkpretrain.config import ModelConfig
from sinkpretrain.errors import ConfigError
from sinkpretrain.model.llama import Llama
from sinkpretrain.model_config import ROPE_SCALINGS

MODEL_TYPES = ("llama", "mistral")

# Our names and the hub's; what is not listed, such as the parameters of an attention kind, keeps its name in a block.
WHOLE = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.gain": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
IN_BLOCK = {
    "attention_norm.gain": "input_layernorm.weight",
    "attention.w_q.weight": "self_attn.q_proj.weight",
    "attention.w_k.weight": "self_attn.k_proj.weight",
    "attention.w_v.weight": "self_attn.v_proj.weight",
    "attention.w_o.weight": "self_attn.o_proj.weight",
    "mlp_norm.gain": "post_attention_layernorm.weight",
    "mlp.w_gate.weight": "mlp.gate_proj.weight",
    "mlp.w_up.weight": "mlp.up_proj.weight",
    "mlp.w_down.weight": "mlp.down_proj.weight",
}
# RoPE scaling's numbers whose names differ.
ROPE_NUMBERS = {"original_context_length": "original_max_position_embeddings"}


def hub_name(name: str) -> str:
    """What the hub calls a parameter of ours."""
    if name in WHOLE:
        return WHOLE[name]
    _, layer, leaf = name.split(".", 2)
    return f"model.layers.{layer}.{IN_BLOCK.get(leaf) or leaf.replace('attention.', 'self_attn.', 1)}"


def model_config(hub: Any, where: str) -> ModelConfig:
    """The shape of a hub model, from its `LlamaConfig` or `MistralConfig`.

    Args:
        hub: the configuration.
        where: the file it came from, for messages.

    Raises:
        ConfigError: something that this Llama does not have: another architecture or activation, biases, heads of
            another size, quantised weights, another RoPE.
    """
    head_size = hub.hidden_size / hub.num_attention_heads
    for key, found, allowed in (
        ("model_type", hub.model_type, MODEL_TYPES),
        ("quantization_config", getattr(hub, "quantization_config", None), (None,)),
        ("attention_bias", getattr(hub, "attention_bias", False), (False,)),
        ("mlp_bias", getattr(hub, "mlp_bias", False), (False,)),
        ("hidden_act", hub.hidden_act, ("silu",)),
        ("head_dim", getattr(hub, "head_dim", None), (None, head_size)),
    ):
        if found not in allowed:
            listed = " or ".join(str(value) for value in allowed)
            raise ConfigError(
                f"{where}: {key} is {found!r}, and a model that can be imported has {listed}: a Llama without biases, "
                "with SwiGLU, and heads that share the model's width; choose another model"
            )
    theta, scaling = _rope(hub.rope_parameters, where)
    return ModelConfig(
        vocab_size=hub.vocab_size,
        n_layers=hub.num_hidden_layers,
        n_heads=hub.num_attention_heads,
        n_kv_heads=hub.num_key_value_heads,
        d_model=hub.hidden_size,
        d_ff=hub.intermediate_size,
        context_length=min(hub.max_position_embeddings, sliding_window(hub) or hub.max_position_embeddings),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=hub.rms_norm_eps,
        tie_embeddings=hub.tie_word_embeddings,
    )


def sliding_window(hub: Any) -> int | None:
    """The sliding window in tokens where it is narrower than the longest sequence: full attention up to there."""
    window = getattr(hub, "sliding_window", None)
    return window if window is not None and window < hub.max_position_embeddings else None


def hub_config(config: ModelConfig) -> dict[str, Any]:
    """The arguments of the `LlamaConfig` of a model of ours; its attention variant is not in there."""
    scaling = dict(config.rope_scaling or {"name": "default"})
    numbers = {ROPE_NUMBERS.get(key, key): value for key, value in scaling.items() if key != "name"}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": scaling["name"], "rope_theta": config.rope_theta, **numbers},
        "tie_word_embeddings": config.tie_embeddings,
    }


def llama_of(hub: Any, config: ModelConfig, where: str) -> Llama:
    """Our Llama with the weights of a hub model, in eval mode; they are shared, not copied.

    Raises:
        ConfigError: the hub model has weights that ours does not.
    """
    theirs: dict[str, Tensor] = hub.state_dict()
    with torch.device("meta"):
        model = Llama(config)
    ours = {name: theirs.pop(hub_name(name)) for name in model.state_dict()}
    if theirs:
        raise ConfigError(
            f"{where}: has weights that a Llama without biases does not have: {', '.join(sorted(theirs))}"
        )
    model.load_state_dict(ours, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model.eval()


def _rope(parameters: dict[str, Any], where: str) -> tuple[float, dict[str, Any] | None]:
    """RoPE's theta and scaling as our configuration has them."""
    kind = parameters.get("rope_type", "default")
    if kind != "default" and kind not in ROPE_SCALINGS:
        allowed = ", ".join(("default", *ROPE_SCALINGS))
        raise ConfigError(f"{where}: RoPE scaling {kind!r} is not one of {allowed}; choose a model without it")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(
            f"{where}: partial_rotary_factor is not 1.0; RoPE here turns whole heads; choose another model"
        )
    if kind == "default":
        return parameters["rope_theta"], None
    numbers = {key: parameters[ROPE_NUMBERS.get(key, key)] for key in ROPE_SCALINGS[kind]}
    return parameters["rope_theta"], {"name": kind, **numbers}
