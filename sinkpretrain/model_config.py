"""The configuration of a model: its shape and its attention."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError, check
from sinkpretrain.mappings import build


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Attention = weights (how scores become weights) x output transforms (between the mixed values and W_O)."""

    weights: dict[str, Any] = field(default_factory=lambda: {"name": "softmax"})
    output: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse unknown kinds; `check_options` refuses their options. Weights without a name are softmax."""
        object.__setattr__(self, "weights", {"name": "softmax", **self.weights})
        for key, kind, entry in self._entries():
            if entry.get("name") not in registry.names(kind):
                allowed, key = ", ".join(registry.names(kind)), key.partition("[")[0]
                raise ConfigError(f"model.attention.{key}: name {entry.get('name')!r} is not one of {allowed}")

    def check_options(self) -> None:
        """Refuse options that a kind does not have, and values it does not take; this imports the kinds, and torch."""
        for key, kind, entry in self._entries():
            options = {option: value for option, value in entry.items() if option != "name"}
            registry.build_options(kind, entry["name"], options, f"model.attention.{key}")

    def _entries(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Key, registry and content of every part."""
        yield "weights", "attention.weights", self.weights
        for number, entry in enumerate(self.output):
            yield f"output[{number}]", "attention.output", entry


# Ways to stretch RoPE to a longer context (linear: 2306.15595; llama3: 2407.21783), each with the numbers it needs.
ROPE_SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_context_length"),
}


def _check_rope_scaling(given: Mapping[str, Any]) -> None:
    """Refuse another kind, numbers missing or too many, and a band of frequencies without width."""
    key, name, numbers = "model.rope_scaling", given.get("name"), sorted(map(str, set(given) - {"name"}))
    if not isinstance(name, str) or name not in ROPE_SCALINGS:
        raise ConfigError(f"{key}.name: {name!r} is not one of {', '.join(ROPE_SCALINGS)}; null means no scaling")
    if numbers != sorted(ROPE_SCALINGS[name]):
        needed = ", ".join(ROPE_SCALINGS[name])
        raise ConfigError(f"{key}: '{name}' needs {needed}; given: {', '.join(numbers) or 'none of them'}")
    for number in numbers:
        value = given[number]
        is_positive = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        check(is_positive, f"{key}.{number}", value, "a finite number > 0")
    if name == "llama3":
        low, high = given["low_freq_factor"], given["high_freq_factor"]
        check(high > low, f"{key}.high_freq_factor", high, f"> low_freq_factor ({low})")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a Llama. `vocab_size: null` in a file means: the token store's vocabulary."""

    vocab_size: int | None = None
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None  # None: one for every query head
    d_model: int = 128
    d_ff: int = 384
    context_length: int = 256  # tokens
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None  # `name`, one of ROPE_SCALINGS, and its numbers
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    init: Literal["gpt2", "fan_in"] = "gpt2"
    dropout: float = 0.0  # of what the embedding, attention and feed-forward layers add to the residual stream
    attention: AttentionConfig = field(default_factory=AttentionConfig)

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built; accept a plain mapping as `attention`."""
        if isinstance(self.attention, Mapping):
            object.__setattr__(self, "attention", build(AttentionConfig, self.attention, "model.attention"))
        if self.rope_scaling is not None:
            _check_rope_scaling(self.rope_scaling)
        for name in ("n_layers", "n_heads", "d_model", "d_ff"):
            check(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), ">= 1")
        check(self.vocab_size is None or self.vocab_size >= 2, "model.vocab_size", self.vocab_size, ">= 2, or null")
        check(self.context_length >= 2, "model.context_length", self.context_length, ">= 2 tokens")
        check(self.rope_theta > 0, "model.rope_theta", self.rope_theta, "> 0")
        check(self.norm_eps > 0, "model.norm_eps", self.norm_eps, "> 0")
        check(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= value < 1")
        head_size_is_even = self.d_model % self.n_heads == 0 and (self.d_model // self.n_heads) % 2 == 0
        check(head_size_is_even, "model.d_model", self.d_model, f"an even multiple of n_heads ({self.n_heads})")
        if self.n_kv_heads is not None:
            divides = self.n_kv_heads >= 1 and self.n_heads % self.n_kv_heads == 0
            check(divides, "model.n_kv_heads", self.n_kv_heads, f"a divisor of n_heads ({self.n_heads}), or null")

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads."""
        return self.n_kv_heads or self.n_heads
