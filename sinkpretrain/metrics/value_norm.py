"""The size of the values at the first token, where the attention goes, and elsewhere.

Shapes use B batch, T positions, G key-value heads, D head size, L layers.
"""

from typing import ClassVar

from sinkpretrain.metrics.base import (
    Arrays,
    LayerView,
    Metric,
    Sums,
    at_least_float32,
    first_and_others,
    means_of_first_and_others,
)


class ValueNorm(Metric):
    """l2 norm of `v` per layer and key-value head; activation units (2410.10781, section 3.1: small at the sink).

    `first`: mean over position 0 of each document. `others`: mean over all other positions.
    """

    taps = ("v",)
    arrays: ClassVar[dict[str, str]] = {"first": "LG", "others": "LG"}

    def measure(self, view: LayerView) -> Sums:
        """Sums of the tokens' norms, by key-value head."""
        return first_and_others(view, at_least_float32(view.taps["v"]).norm(dim=-1))

    def finish(self, sums: Arrays) -> Arrays:
        """Means over tokens."""
        return means_of_first_and_others(sums)
