"""The Llama: token embedding, pre-norm blocks, final RMSNorm, head. One model for every attention variant.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, G key-value heads,
D head size, C model width, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sinkpretrain import registry
from sinkpretrain.attention.base import AttentionShape, AttentionWeights, Mask
from sinkpretrain.config import ModelConfig
from sinkpretrain.data.windows import IGNORED
from sinkpretrain.errors import ConfigError
from sinkpretrain.model.initialisation import initialise
from sinkpretrain.model.layers import RMSNorm, RoPE, SwiGLU
from sinkpretrain.taps import Tap, record

__all__ = ["Llama", "ModelConfig", "next_token_loss", "weight_rows"]


class SelfAttention(nn.Module):
    """Projections and RoPE around one kind of weights and any number of output transforms."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        shape = AttentionShape(
            n_heads=config.n_heads,
            kv_heads=config.kv_heads,
            head_size=config.head_size,
            d_model=config.d_model,
            context_length=config.context_length,
        )
        self.shape, self.layer = shape, layer
        self.w_q = nn.Linear(config.d_model, shape.n_heads * shape.head_size, bias=False)
        self.w_k = nn.Linear(config.d_model, shape.kv_heads * shape.head_size, bias=False)
        self.w_v = nn.Linear(config.d_model, shape.kv_heads * shape.head_size, bias=False)
        self.w_o = nn.Linear(shape.n_heads * shape.head_size, config.d_model, bias=False)
        self.weights: AttentionWeights = _build("attention.weights", config.attention.weights, shape, "weights")
        self.output = nn.ModuleList(
            _build("attention.output", entry, shape, f"output[{index}]")
            for index, entry in enumerate(config.attention.output)
        )
        self.taps = nn.ModuleDict({name: Tap(name, layer) for name in ("q", "k", "v", "mixed", "head_out", "attn_out")})

    def forward(
        self, x_BTC: Tensor, table: tuple[Tensor, Tensor], mask: Mask, cache: "KeyValueCache | None" = None
    ) -> Tensor:
        """What attention adds to the residual stream, from the block's normed input."""
        size = self.shape.head_size
        q_BTHD = self.taps["q"](RoPE.rotate(rearrange(self.w_q(x_BTC), "b t (h d) -> b t h d", d=size), table))
        k_BTGD = self.taps["k"](RoPE.rotate(rearrange(self.w_k(x_BTC), "b t (g d) -> b t g d", d=size), table))
        v_BTGD = self.taps["v"](rearrange(self.w_v(x_BTC), "b t (g d) -> b t g d", d=size))
        if cache is not None:
            k_BTGD, v_BTGD = cache.extended(self.layer, k_BTGD, v_BTGD)
        out_BTHD = self.taps["mixed"](self.weights.mix(q_BTHD, k_BTGD, v_BTGD, mask))
        for transform in self.output:
            out_BTHD = transform(out_BTHD, x_BTC)
        out_BTHD = self.taps["head_out"](out_BTHD)
        out_BTC: Tensor = self.taps["attn_out"](self.w_o(rearrange(out_BTHD, "b t h d -> b t (h d)")))
        return out_BTC


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = SelfAttention(config, layer)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config, layer)
        self.dropout = nn.Dropout(config.dropout)
        self.tap_in = Tap("resid_in", layer)
        self.tap_out = Tap("resid_out", layer)

    def forward(
        self, x_BTC: Tensor, table: tuple[Tensor, Tensor], mask: Mask, cache: "KeyValueCache | None" = None
    ) -> Tensor:
        """The residual stream after the block."""
        x_BTC = self.tap_in(x_BTC)
        x_BTC = x_BTC + self.dropout(self.attention(self.attention_norm(x_BTC), table, mask, cache))
        x_BTC = self.tap_out(x_BTC + self.dropout(self.mlp(self.mlp_norm(x_BTC))))
        return x_BTC

    @property
    def matrices(self) -> dict[str, Tensor]:
        """What every variant has, to read: `w_q` ... `w_o`, `w_gate`, `w_up`, `w_down`, and the gains of the norms."""
        of = {name: getattr(self.attention, name).weight for name in ("w_q", "w_k", "w_v", "w_o")}
        of |= {name: getattr(self.mlp, name).weight for name in ("w_gate", "w_up", "w_down")}
        of |= {"attention_norm": self.attention_norm.gain, "mlp_norm": self.mlp_norm.gain}
        return {name: tensor.detach() for name, tensor in of.items()}


class Llama(nn.Module):
    """A Llama language model: `Llama(ModelConfig(...))(tokens_BT)` gives logits_BTV.

    On any device but `meta` its parameters are initialised, each from its own hash of (seed, name).
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ConfigError("model.vocab_size: is null; a model without a token store needs it given")
        self.config = config
        with torch.random.fork_rng(devices=[]):  # PyTorch's own initial values, replaced below, draw from it
            self.embedding = nn.Embedding(config.vocab_size, config.d_model)
            self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
            self.norm = RMSNorm(config.d_model, config.norm_eps)
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.rope = RoPE(config)
        self.dropout = nn.Dropout(config.dropout)
        if not self.head.weight.is_meta:
            initialise(self, seed)

    def forward(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        shared_prompt: bool = False,
        cache: "KeyValueCache | None" = None,
    ) -> Tensor:
        """Logits of the next token, logits_BTV.

        Args:
            tokens_BT: token ids.
            document_BT: which document each position belongs to, in runs along T. Positions then count from each
                document's own first token and no query sees another document's keys.
            shared_prompt: document 0 is a prompt that each later document continues: they see it, and count on from
                it. Negative documents are padding.
            cache: keys and values of the tokens before these, to which theirs are added.

        Raises:
            ConfigError: a position beyond the context length.
        """
        return self.logits(self.residual(tokens_BT, document_BT, shared_prompt, cache))

    def logits(self, x_BTC: Tensor) -> Tensor:
        """Logits of the next token from the residual stream after the last block."""
        logits_BTV: Tensor = self.head(self.norm(x_BTC))
        return logits_BTV

    def residual(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        shared_prompt: bool = False,
        cache: "KeyValueCache | None" = None,
    ) -> Tensor:
        """The residual stream after the last block, before the final norm."""
        before = 0 if cache is None else cache.tokens
        if cache is not None:
            document_BT = cache.documents(document_BT)
        tokens = before + tokens_BT.shape[1]
        mask = Mask(tokens, tokens_BT.device, document_BT, shared_prompt=shared_prompt, before=before)
        longest = int(mask.position.max()) + 1 if shared_prompt else tokens
        if longest > self.config.context_length:
            limit = self.config.context_length
            raise ConfigError(f"{longest} tokens are more than the model's context length of {limit}")
        return self.through_blocks(self.dropout(self.embedding(tokens_BT)), mask, cache=cache)

    def through_blocks(self, x_BTC: Tensor, mask: Mask, first: int = 0, cache: "KeyValueCache | None" = None) -> Tensor:
        """The residual stream after the last block, from the one that block `first` reads."""
        table = self.rope.table(mask.position[..., mask.before :])
        for block in list(self.blocks)[first:]:
            x_BTC = block(x_BTC, table, mask, cache)
        return x_BTC


class KeyValueCache:
    """Keys and values of the tokens so far, for passes that go on from them; queries of earlier tokens are not kept."""

    def __init__(self) -> None:
        self.tokens = 0
        self._document_BT: Tensor | None = None
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def documents(self, document_BT: Tensor | None) -> Tensor | None:
        """The documents of all tokens, with those of the new ones."""
        if document_BT is not None and self._document_BT is not None:
            document_BT = torch.cat([self._document_BT, document_BT], dim=1)
        self._document_BT = document_BT
        return document_BT

    def extended(self, layer: int, k_BTGD: Tensor, v_BTGD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens of a layer, with those of the new ones."""
        if layer in self._layers:
            k_BSGD, v_BSGD = self._layers[layer]
            k_BTGD, v_BTGD = torch.cat([k_BSGD, k_BTGD], dim=1), torch.cat([v_BSGD, v_BTGD], dim=1)
        self._layers[layer] = (k_BTGD, v_BTGD)
        self.tokens = k_BTGD.shape[1]
        return k_BTGD, v_BTGD


def next_token_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The summed negative log-likelihood of the targets in nats, in float32; targets of -100 do not count."""
    logits_NV, targets_N = logits_BTV.float().flatten(0, 1), targets_BT.flatten()
    return F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")


def perplexity(loss: float) -> float:
    """exp of a loss in nats a token, kept finite."""
    return math.exp(min(loss, 700.0))


@torch.no_grad()
def weight_rows(
    model: Llama, tokens_BT: Tensor, layer: int, document_BT: Tensor | None = None
) -> Iterator[tuple[int, Tensor]]:
    """The attention weights of one layer in blocks of rows: (first row, weights_BHRS over all T keys).

    The weights are the explicit definition's, raw: rows of kinds other than softmax need not sum to one.

    Raises:
        ConfigError: a layer that the model does not have.
    """
    if not 0 <= layer < len(model.blocks):
        raise ConfigError(f"layer {layer} is not one of 0 .. {len(model.blocks) - 1}")
    with record(model, "q", "k") as taps:
        model.residual(tokens_BT, document_BT)
    mask = Mask(tokens_BT.shape[1], tokens_BT.device, document_BT)
    weights: AttentionWeights = model.blocks[layer].attention.weights  # type: ignore[union-attr, assignment]
    yield from weights.rows(taps["q"][layer], taps["k"][layer], mask)


def _build(kind: str, entry: dict[str, Any], shape: AttentionShape, key: str) -> Any:
    """One attention kind from its entry in the configuration."""
    options = {name: value for name, value in entry.items() if name != "name"}
    name = entry["name"]
    return registry.load(kind, name)(shape, registry.build_options(kind, name, options, f"model.attention.{key}"))
