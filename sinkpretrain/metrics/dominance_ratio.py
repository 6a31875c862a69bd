"""How far a token's largest channel stands above its others.

Shapes use B batch, T positions, C model width, L layers.
"""

from typing import ClassVar

from torch import Tensor

from sinkpretrain.metrics.base import Arrays, FirstAgainstOthers, LayerView, at_least_float32


class DominanceRatio(FirstAgainstOthers):
    """max_j |h_j| / mean_j |h_j| of `resid_out`, between 1 and C, no unit (2605.06611, Figs. 11 and 14).

    `first`: mean over position 0 of each document. `others`: mean over all other positions.
    """

    taps = ("resid_out",)
    arrays: ClassVar[dict[str, str]] = {"first": "L", "others": "L"}

    def quantity(self, view: LayerView) -> Tensor:
        """The tokens' ratios."""
        size_BTC = at_least_float32(view.taps["resid_out"]).abs()
        return size_BTC.amax(dim=-1) / size_BTC.mean(dim=-1)

    def scalars(self, arrays: Arrays) -> dict[str, float]:
        """The mean over layers of the first position's ratio."""
        return {"activation/dominance_mean": float(arrays["first"].mean())}
