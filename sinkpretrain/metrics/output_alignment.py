"""Whether W_O reads the dimensions in which the first token varies.

Shapes use B batch, N dimensions of all heads together (H D), C output channels, L layers.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from scipy.stats import kendalltau
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, Inputs, LayerView, Metric, Sums, double, mean


class OutputAlignment(Metric):
    """Kendall's rank correlation of |W_O[i, :]| with the variance of token 0's mixed values (2605.06611, Fig. 7).

    For each output channel i of a layer, over the N dimensions of the heads: `tau` (tau-b, between -1 and 1), and its
    mean over channels, `mean`. The variance is over uniform random sequences without a BOS, for each dimension of
    `mixed` at position 0. NaN where all weights of a row, or all variances, are equal.
    """

    inputs = Inputs(text="random", tokens=256, sequences=64)
    taps = ("mixed",)
    arrays: ClassVar[dict[str, str]] = {"tau": "LC", "mean": "L"}

    def measure(self, view: LayerView) -> Sums:
        """Sums and squares of the first token's mixed values, [N]."""
        assert not view.has_documents, "random text is one document"
        mixed_BN = double(view.taps["mixed"][:, 0]).flatten(1)
        return {
            "sum": mixed_BN.sum(dim=0),
            "squares": mixed_BN.square().sum(dim=0),
            "count": double(view.first_BT.sum()),
        }

    def weigh(self, matrices: Mapping[str, Tensor]) -> Sums:
        """The sizes of W_O's weights, [C, N]."""
        return {"w_o": double(matrices["w_o"]).abs()}

    def finish(self, sums: Arrays) -> Arrays:
        """One correlation an output channel."""
        count_L = sums["count"]
        variance_LN = mean(sums["squares"] - mean(np.square(sums["sum"]), count_L), count_L - 1)
        tau_LC = np.array(
            [
                [kendalltau(row_N, variance_N).statistic for row_N in w_o_CN]
                for w_o_CN, variance_N in zip(sums["w_o"], variance_LN, strict=True)
            ],
            dtype=np.float64,
        )
        return {"tau": tau_LC, "mean": tau_LC.mean(axis=1)}
