"""The Llama of transformers with an attention kind of sinkpretrain in it: the model file of an exported folder.

`export_hf` puts the source of the attention kinds in front of this text, without the imports from sinkpretrain, so
that the folder runs on torch, einops and transformers alone.

Shapes use B batch, T query positions, S key positions, H query heads, G key-value heads, D head size, C model width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from sinkpretrain.attention.base import AttentionShape, AttentionWeights, Mask

KINDS: dict[str, Any] = {}  # `weights/<name>` and `output/<name>` to the class; filled at the end of the exported file


class SinkpretrainConfig(LlamaConfig):  # type: ignore[misc]
    """A Llama's configuration; `sinkpretrain_attention` has the `weights` and the list `output`, each with a `name`."""

    model_type = "sinkpretrain"


@dataclass(frozen=True)
class VisibleMask(Mask):
    """A mask given as what each query sees, for padding and for queries that follow cached keys."""

    visible_B1TS: Tensor | None = None

    @property
    def is_causal_only(self) -> bool:
        """Whether it was given nothing, and is causal."""
        return self.visible_B1TS is None and self.before == 0

    def visible(self, first: int, last: int) -> Tensor:
        """True where queries `first .. last - 1` see keys `0 .. last - 1`; the last query stands at the last key."""
        if self.visible_B1TS is None:
            return super().visible(first, last)
        return self.visible_B1TS[:, :, first - self.before : last - self.before, :last]

    @property
    def dense(self) -> Tensor:
        """What all queries see."""
        return super().visible(self.before, self.tokens) if self.visible_B1TS is None else self.visible_B1TS


class SinkpretrainAttention(LlamaAttention):  # type: ignore[misc]
    """Projections, RoPE and cache of transformers around our weights and output transforms."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        shape = AttentionShape(
            n_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=self.head_dim,
            d_model=config.hidden_size,
            context_length=config.max_position_embeddings,
        )
        attention = config.sinkpretrain_attention
        self.weights: AttentionWeights = _built("weights", attention["weights"], shape)
        self.output = nn.ModuleList(_built("output", entry, shape) for entry in attention["output"])

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """What attention adds to the residual stream; weights are not given out."""
        projected = (self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states))
        q_BHTD, k_BGTD, v_BGTD = (rearrange(x, "b t (h d) -> b h t d", d=self.head_dim) for x in projected)
        q_BHTD, k_BGSD = apply_rotary_pos_emb(q_BHTD, k_BGTD, *position_embeddings)
        v_BGSD, before, keys = v_BGTD, 0, q_BHTD.shape[2]
        if past_key_values is not None:
            before = int(past_key_values.get_seq_length(self.layer_idx))
            keys += before
            cached = past_key_values.update(k_BGSD, v_BGSD, self.layer_idx)
            k_BGSD, v_BGSD = (x[:, :, :keys] for x in cached)  # a static cache is longer than what is in it
        q_BTHD, k_BSGD, v_BSGD = (rearrange(x, "b h t d -> b t h d") for x in (q_BHTD, k_BGSD, v_BGSD))
        mask = _mask(attention_mask, before, keys, q_BTHD.device)
        out_BTHD = self.weights.mix(q_BTHD, k_BSGD, v_BSGD, mask)
        for transform in self.output:
            out_BTHD = transform(out_BTHD, hidden_states)
        return self.o_proj(rearrange(out_BTHD, "b t h d -> b t (h d)")), None


class SinkpretrainModel(LlamaModel):  # type: ignore[misc]
    """The blocks, with the attention replaced."""

    config_class = SinkpretrainConfig
    _supports_flash_attn = False
    _supports_flex_attn = False
    _can_compile_fullgraph = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer, block in enumerate(self.layers):
            block.self_attn = SinkpretrainAttention(config, layer)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The last hidden states. Positions count from the first token that is not padding, as in training."""
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            tokens = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]  # type: ignore[union-attr]
            position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -tokens:]
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


class SinkpretrainForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """The language model: `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`."""

    config_class = SinkpretrainConfig
    _supports_flash_attn = False
    _supports_flex_attn = False
    _can_compile_fullgraph = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = SinkpretrainModel(config)
        self.post_init()


def _built(kind: str, entry: dict[str, Any], shape: AttentionShape) -> Any:
    """One attention kind from its entry in the configuration."""
    made = KINDS[f"{kind}/{entry['name']}"]
    options = {name: value for name, value in entry.items() if name != "name"}
    return made(shape, made.Options(**options) if options else None)


def _mask(attention_mask: Tensor | None, before: int, keys: int, device: torch.device) -> VisibleMask:
    """Our mask from that of transformers: none, true where visible, or zero where visible and very negative elsewhere.

    A query that sees nothing is padding; it is given its own key, so that its row of weights exists.
    """
    if attention_mask is None:
        return VisibleMask(keys, device, before=before)
    attention_mask = attention_mask[..., :keys]
    seen_B1TS = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
    own_TS = torch.arange(keys, device=device) == torch.arange(before, keys, device=device)[:, None]
    return VisibleMask(
        keys, device, before=before, visible_B1TS=seen_B1TS | (own_TS & ~seen_B1TS.any(dim=-1, keepdim=True))
    )
