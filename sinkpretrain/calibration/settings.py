"""What ACT is set to, apart from which heads it calibrates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sinkpretrain.errors import ConfigError, check

Heads = Sequence[tuple[int, int]]  # (layer, head)

Detection = Literal["paper", "causal_null", "absolute"]
Method = Literal["act", "temperature", "inverse_temperature", "inverse"]
Redistribution = Literal["proportional", "uniform", "question_only", "choices_only"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """ACT's settings (2406.15765, sections 4.2, 4.3 and 5.3); the defaults are the paper's.

    A position k >= 1 of N is a sink of a head where its attention score a[k] is above
    - `paper`: alpha / N;
    - `causal_null`: alpha (H_N - H_k) / (N - k), alpha times what uniform causal attention gives;
    - `absolute`: `threshold`.

    a[k] is the mean over the rows i >= k of A[i, k], each row divided by its sum: the paper's 1 / N is the mean score
    where rows sum to one, and unnormalised sigmoid rows of mass 5 would put nearly every position above alpha / N. With
    `row_normalised: false` it is of the weights as they are. Position 0 is never a sink here: ACT leaves it alone.
    """

    alpha: float = 5.0
    beta: float = 0.4  # the share of its weight that a sink keeps
    detection: Detection = "paper"
    threshold: float = 0.1
    row_normalised: bool = True
    first_layer: int = 2
    last_layer: int | None = None  # None: the second to last
    method: Method = "act"
    theta: float = 1.1  # of the methods `temperature` and `inverse_temperature`
    redistribution: Redistribution = "proportional"
    to_first: bool = True  # whether the first token is among those that receive
    columns: Literal["sinks", "random"] = "sinks"  # random, a control: the same mass comes from other columns
    seed: int = 0  # of `columns: random`

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings that would have no effect."""
        check(self.alpha > 0, "alpha", self.alpha, "> 0")
        check(0 <= self.beta <= 1, "beta", self.beta, "0 (sinks keep nothing) .. 1 (everything)")
        check(self.theta > 0, "theta", self.theta, "> 0")
        check(0 < self.threshold < 1, "threshold", self.threshold, "between 0 and 1")
        check(self.first_layer >= 0, "first_layer", self.first_layer, ">= 0")
        moves = self.redistribution != "proportional" or self.columns != "sinks"
        if self.method != "act" and moves:
            raise ConfigError(f"method: '{self.method}' takes no redistribution and no columns; leave them out")
        if self.redistribution != "proportional" and self.columns != "sinks":
            raise ConfigError("columns: 'random' is a control of the proportional redistribution alone")

    @property
    def needs_sinks(self) -> bool:
        """Whether a head without sinks stays as it is; the temperatures change every row."""
        return self.method in ("act", "inverse")

    @property
    def needs_receivers(self) -> bool:
        """Whether the receiving positions have to be given."""
        return self.redistribution in ("question_only", "choices_only")

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes, whatever the sinks."""
        return self.beta == 1 if self.needs_sinks else self.theta == 1

    @property
    def is_fused(self) -> bool:
        """Whether the fused path holds on softmax attention: ACT itself, not its ablations and controls."""
        moves = (self.method, self.redistribution, self.to_first, self.columns)
        return moves == ("act", "proportional", True, "sinks")

    def layers(self, n_layers: int) -> range:
        """The layers ACT may calibrate.

        Raises:
            ConfigError: layers that the model does not have, or none.
        """
        last = n_layers - 2 if self.last_layer is None else self.last_layer
        if last >= n_layers:
            raise ConfigError(f"last_layer: {last} is out of range; allowed: 0 .. {n_layers - 1}, the model's layers")
        if last < self.first_layer:
            raise ConfigError(
                f"first_layer: {self.first_layer} comes after last_layer, {last}; of the model's {n_layers} layers "
                "none is left to calibrate; give others"
            )
        return range(self.first_layer, last + 1)

    def heads(self, n_layers: int, n_heads: int) -> list[tuple[int, int]]:
        """Every head of these layers, (layer, head) in order."""
        return [(layer, head) for layer in self.layers(n_layers) for head in range(n_heads)]
