"""Softmax attention is `transformers.LlamaForCausalLM`: logits, gradients and the losses of ten AdamW steps.

Shapes use B batch, T positions, V vocabulary.
"""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.model.llama import Llama, ModelConfig, next_token_loss

transformers = pytest.importorskip("transformers", reason="parity with the hub's Llama needs the extra 'dev'")

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}  # rounding of float32 in another order

VARIANTS = [
    pytest.param({}, id="multi-head"),
    pytest.param({"n_kv_heads": 2}, id="grouped"),
    pytest.param({"n_kv_heads": 1, "tie_embeddings": True}, id="one KV head, tied"),
    pytest.param({"rope_theta": 500_000.0, "tie_embeddings": True}, id="theta 5e5, tied"),
    pytest.param({"rope_theta": 100.0, "norm_eps": 1e-3, "n_kv_heads": 2}, id="theta 100, eps 1e-3"),
]

# Our names of a block's modules, and theirs.
NAMES = {
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


def theirs_of(config):
    """The hub's model of the same shape, its own eager attention."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
            attn_implementation="eager",
        )
    )


def paired(ours, theirs):
    """Each of our parameters beside its counterpart."""
    counterpart = dict(theirs.named_parameters())
    whole = {"embedding.weight": "model.embed_tokens.weight", "norm.gain": "model.norm.weight"}
    whole["head.weight"] = "lm_head.weight"
    for name, parameter in ours.named_parameters():
        block, _, leaf = name.removeprefix("blocks.").partition(".")
        yield name, parameter, counterpart.pop(whole.get(name) or f"model.layers.{block}.{NAMES[leaf]}")
    assert not counterpart, f"without a counterpart: {list(counterpart)}"


@pytest.fixture(params=VARIANTS)
def models(request):
    """Ours and theirs with the same weights, large enough that attention is far from uniform."""
    sizes = dict(vocab_size=61, n_layers=3, n_heads=4, d_model=32, d_ff=48, context_length=64)
    ours = Llama(ModelConfig(**{**sizes, **request.param}), seed=3)
    theirs = theirs_of(ours.config)
    with torch.no_grad():
        for name, parameter, other in paired(ours, theirs):
            if name.endswith("gain"):
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
            else:
                parameter.mul_(6)
            other.copy_(parameter)
    return ours, theirs


def batch(seed, config):
    return torch.randint(config.vocab_size, (3, 50), generator=torch.Generator().manual_seed(seed))


def mean_loss(logits_BTV, tokens_BT):
    return next_token_loss(logits_BTV[:, :-1], tokens_BT[:, 1:]) / tokens_BT[:, 1:].numel()


@pytest.mark.parametrize("uses_fused", [True, False], ids=["fused", "explicit"])
def test_logits_and_gradients(models, uses_fused):
    ours, theirs = models
    for block in ours.blocks:
        block.attention.weights.uses_fused = uses_fused
    tokens_BT = batch(0, ours.config)
    our_logits, their_logits = ours(tokens_BT), theirs(tokens_BT).logits
    assert their_logits.std() > 0.1
    assert_close(our_logits, their_logits, **TOLERANCE)

    mean_loss(our_logits, tokens_BT).backward()
    mean_loss(their_logits, tokens_BT).backward()
    for name, parameter, other in paired(ours, theirs):
        assert other.grad.abs().max() > 1e-4, name
        assert_close(parameter.grad, other.grad, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


def test_ten_steps_of_adamw(models):
    losses = []
    for model in models:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        losses.append([])
        for step in range(10):
            tokens_BT = batch(step % 3, models[0].config)
            logits_BTV = model(tokens_BT) if model is models[0] else model(tokens_BT).logits
            loss = mean_loss(logits_BTV, tokens_BT)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    ours, theirs = (torch.tensor(series, dtype=torch.float64) for series in losses)
    assert theirs[0] - theirs[9] > 0.05, "the model learns"
    assert_close(ours, theirs, **TOLERANCE)


def test_rope_table_is_the_hubs_at_long_range():
    """The same float32 angles bit for bit: at position 8191 one rounding apart is 1e-4 in the cosine."""
    config = ModelConfig(vocab_size=2, n_layers=1, n_heads=1, d_model=64, d_ff=1, context_length=8192, rope_theta=5e5)
    position_T = torch.arange(8192)
    cos, sin = Llama(config).rope.table(position_T)
    their_cos, their_sin = theirs_of(config).model.rotary_emb(torch.zeros(1), position_T[None])
    assert torch.equal(cos[:, 0], their_cos[0])
    assert torch.equal(sin[:, 0], their_sin[0])
