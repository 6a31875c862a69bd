"""Whether the heads of a layer speak equally loudly.

Shapes use B batch, T query positions, H query heads, D head size, L layers.
"""

from typing import ClassVar

import numpy as np

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, double, mean


class HeadBalance(Metric):
    """Per layer and head, the entropy of its rows and the variance of its output (2605.06611, Fig. 13).

    `entropy`: mean over queries of -sum p ln p, nats, p the row divided by its sum; rows without mass are left out.
    `variance`: of `mixed` over the queries of all sequences, mean over the D channels; squared activation, unbiased
    (n - 1). Both over the queries t >= 1 of each document: the first has no choice.
    """

    taps = ("mixed",)
    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {"entropy": "LH", "variance": "LH"}

    def measure(self, view: LayerView) -> Sums:
        """Sums over the queries that are not the first of their document."""
        assert view.attention is not None
        later_BT = ~view.first_BT
        counted_BHT = (view.attention.mass_BHT != 0) & later_BT[:, None]
        mixed_NHD = double(view.taps["mixed"][later_BT])
        return {
            "entropy": double(view.attention.entropy_BHT * counted_BHT).sum(dim=(0, 2)),
            "entropy_count": double(counted_BHT).sum(dim=(0, 2)),
            "sum": mixed_NHD.sum(dim=0),
            "squares": mixed_NHD.square().sum(dim=(0, 2)),
            "count": double(later_BT.sum()),
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Means over queries."""
        sum_LHD, count_L = sums["sum"], sums["count"]
        deviation_LH = sums["squares"] - mean(np.square(sum_LHD).sum(axis=-1), count_L)
        return {
            "entropy": mean(sums["entropy"], sums["entropy_count"]),
            "variance": mean(deviation_LH, count_L - 1) / sum_LHD.shape[-1],
        }
