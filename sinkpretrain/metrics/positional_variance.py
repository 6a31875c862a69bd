"""The variance of what attention gives, by position: where sinks start, as 2605.06611 has it.

Shapes use B batch, T positions, H query heads, D head size, C channels of a tap (H D, or the model width), L layers.
"""

from typing import ClassVar

import numpy as np

from sinkpretrain.metrics.base import Arrays, Inputs, LayerView, Metric, Sums, double, mean

TAPS = ("mixed", "head_out", "attn_out")


class PositionalVariance(Metric):
    """Var over sequences of x[t, j], mean over channels j, as a curve over t; squared activation (2605.06611, Fig. 7).

    On uniform random tokens without a BOS, so that position 0 differs from the others only in what it attends to. x is
    `mixed` (the mixed values), `head_out` (what enters W_O) and `attn_out` (what leaves it). `discrepancy*`: the value
    at 0 over the mean over t >= T / 2, no unit; 1 is no discrepancy. `mixed_spatial` is another variance: over the
    channels j of one sequence's `mixed`, then the mean over sequences. Variances are unbiased (n - 1).
    """

    inputs = Inputs(text="random", tokens=256, sequences=64)
    taps = TAPS
    arrays: ClassVar[dict[str, str]] = {
        "mixed": "LT",
        "head_out": "LT",
        "attn_out": "LT",
        "mixed_spatial": "LT",
        "discrepancy": "L",
        "discrepancy_head_out": "L",
        "discrepancy_attn_out": "L",
    }

    def measure(self, view: LayerView) -> Sums:
        """Sums over sequences, [T, C], and of squares, [T], of each tap: float64, since they get subtracted."""
        assert not view.has_documents, "random text is one document"
        sums = {"count": double(view.first_BT.sum())}
        for tap in TAPS:
            x_BTC = double(view.taps[tap]).flatten(2)
            sums[f"{tap}_sum"] = x_BTC.sum(dim=0)
            sums[f"{tap}_squares"] = x_BTC.square().sum(dim=(0, 2))
        sums["spatial"] = double(view.taps["mixed"]).flatten(2).var(dim=-1).sum(dim=0)
        return sums

    def finish(self, sums: Arrays) -> Arrays:
        """Variances by position, and their discrepancies."""
        count_L = sums["count"]
        curves: Arrays = {}
        for tap in TAPS:
            sum_LTC = sums[f"{tap}_sum"]
            deviation_LT = sums[f"{tap}_squares"] - mean(np.square(sum_LTC).sum(axis=-1), count_L)
            curves[tap] = mean(deviation_LT, count_L - 1) / sum_LTC.shape[-1]
        late = (curves["mixed"].shape[1] + 1) // 2
        discrepancy = {tap: curve_LT[:, 0] / curve_LT[:, late:].mean(axis=1) for tap, curve_LT in curves.items()}
        return {
            **curves,
            "mixed_spatial": mean(sums["spatial"], count_L),
            "discrepancy": discrepancy["mixed"],
            "discrepancy_head_out": discrepancy["head_out"],
            "discrepancy_attn_out": discrepancy["attn_out"],
        }
