"""The size of the representations that attention reads.

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


class RepresentationNorm(Metric):
    """l2 norm of `resid_in`, what the layer's attention reads, before the norm; activation units (2605.06611, Fig. 3).

    `first`: mean over position 0 of each document. `others`: mean over all other positions.
    """

    taps = ("resid_in",)
    arrays: ClassVar[dict[str, str]] = {"first": "L", "others": "L"}

    def measure(self, view: LayerView) -> Sums:
        """Sums of the tokens' norms."""
        return first_and_others(view, at_least_float32(view.taps["resid_in"]).norm(dim=-1))

    def finish(self, sums: Arrays) -> Arrays:
        """Means over tokens."""
        return means_of_first_and_others(sums)
