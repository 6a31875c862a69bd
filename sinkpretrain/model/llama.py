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
        self.shape = shape
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

    def forward(self, x_BTC: Tensor, table: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
        """What attention adds to the residual stream, from the block's normed input."""
        size = self.shape.head_size
        q_BTHD = self.taps["q"](RoPE.rotate(rearrange(self.w_q(x_BTC), "b t (h d) -> b t h d", d=size), table))
        k_BTGD = self.taps["k"](RoPE.rotate(rearrange(self.w_k(x_BTC), "b t (g d) -> b t g d", d=size), table))
        v_BTGD = self.taps["v"](rearrange(self.w_v(x_BTC), "b t (g d) -> b t g d", d=size))
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
        self.tap_in = Tap("resid_in", layer)
        self.tap_out = Tap("resid_out", layer)

    def forward(self, x_BTC: Tensor, table: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
        """The residual stream after the block."""
        x_BTC = self.tap_in(x_BTC)
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC), table, mask)
        x_BTC = self.tap_out(x_BTC + self.mlp(self.mlp_norm(x_BTC)))
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
        if not self.head.weight.is_meta:
            initialise(self, seed)

    def forward(self, tokens_BT: Tensor, document_BT: Tensor | None = None) -> Tensor:
        """Logits of the next token, logits_BTV.

        Args:
            tokens_BT: token ids.
            document_BT: which document each position belongs to, rising along T. Positions then count from each
                document's own first token and no query sees another document's keys.

        Raises:
            ConfigError: more positions than the context length.
        """
        logits_BTV: Tensor = self.head(self.norm(self.residual(tokens_BT, document_BT)))
        return logits_BTV

    def residual(self, tokens_BT: Tensor, document_BT: Tensor | None = None) -> Tensor:
        """The residual stream after the last block, before the final norm."""
        tokens = tokens_BT.shape[1]
        if tokens > self.config.context_length:
            limit = self.config.context_length
            raise ConfigError(f"{tokens} tokens are more than the model's context length of {limit}")
        mask = Mask(tokens, tokens_BT.device, document_BT)
        table = self.rope.table(mask.position)
        x_BTC: Tensor = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTC = block(x_BTC, table, mask)
        return x_BTC


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
