"""How far a token's largest channel stands above its others.

Shapes use B batch, T positions, C model width, L layers.
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


class DominanceRatio(Metric):
    """max_j |h_j| / mean_j |h_j| of `resid_out`, between 1 and C, no unit (2605.06611, Figs. 11 and 14).

    `first`: mean over position 0 of each document. `others`: mean over all other positions.
    """

    taps = ("resid_out",)
    arrays: ClassVar[dict[str, str]] = {"first": "L", "others": "L"}

    def measure(self, view: LayerView) -> Sums:
        """Sums of the tokens' ratios."""
        size_BTC = at_least_float32(view.taps["resid_out"]).abs()
        return first_and_others(view, size_BTC.amax(dim=-1) / size_BTC.mean(dim=-1))

    def finish(self, sums: Arrays) -> Arrays:
        """Means over tokens."""
        return means_of_first_and_others(sums)

    def scalars(self, arrays: Arrays) -> dict[str, float]:
        """The mean over layers of the first position's ratio."""
        return {"activation/dominance_mean": float(arrays["first"].mean())}
