"""How much attention the first token receives.

Shapes use B batch, T query positions, H query heads, L layers.
"""

from typing import ClassVar

import numpy as np

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, by_layer, double, mean


class FirstTokenAttention(Metric):
    """Mean of A[t, 0] over sequences and queries t >= 1, per layer and head; weights, no unit (2605.06611, Fig. 2).

    Position 0 and t are each document's own. `normalised`: rows divided by their sum, over rows that have one.
    `uniform`: what uniform attention gives on the same queries, the mean of 1 / (t + 1); (H_T - 1) / (T - 1) with H_T
    the harmonic number, where a window is one document. `mass`: mean row sum. `massless`: share of rows whose sum is 0.
    """

    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {"raw": "LH", "normalised": "LH", "uniform": "", "mass": "LH", "massless": "LH"}

    def measure(self, view: LayerView) -> Sums:
        """Sums over the queries that are not the first of their document."""
        assert view.attention is not None
        counted_B1T = ~view.first_BT[:, None]
        attention = view.attention
        massless_BHT = (attention.mass_BHT == 0) & counted_B1T
        return {
            "raw": double(attention.first_BHT * counted_B1T).sum(dim=(0, 2)),
            "normalised": double(attention.first_normalised_BHT * counted_B1T).sum(dim=(0, 2)),
            "mass": double(attention.mass_BHT * counted_B1T).sum(dim=(0, 2)),
            "massless": double(massless_BHT).sum(dim=(0, 2)),
            "uniform": (double(~view.first_BT) / double(view.position_BT + 1)).sum(),
            "count": double(counted_B1T.sum()),
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Means over the counted queries."""
        count_L1 = sums["count"][:, None]
        return {
            "raw": mean(sums["raw"], sums["count"]),
            "normalised": mean(sums["normalised"], count_L1 - sums["massless"]),
            "uniform": np.asarray(mean(sums["uniform"], sums["count"])[0]),
            "mass": mean(sums["mass"], sums["count"]),
            "massless": mean(sums["massless"], sums["count"]),
        }

    def scalars(self, arrays: Arrays) -> dict[str, float]:
        """The mean over layers and heads of raw and of row-normalised weights, and each layer's mean of raw ones."""
        raw_LH = arrays["raw"]
        return {
            "sink/first_token_mean": float(raw_LH.mean()),
            "sink/first_token_mean_normalised": float(arrays["normalised"].mean()),
            **by_layer("sink", raw_LH.mean(axis=1)),
        }
