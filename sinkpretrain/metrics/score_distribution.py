"""How attention scores are distributed: the first token's, later sinks', everybody else's.

Shapes use B batch, N scores, S key positions, H query heads, K bins, E their edges, L layers.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sinkpretrain.metrics.attention_score import sink_flags
from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, double

EDGES = np.logspace(-6, 0, 61)


class ScoreDistribution(Metric):
    """Histogram of a[k] = mean over i >= k of A[i, k], by layer and kind of position (ACT, 2406.15765, Fig. 2).

    Counts of (sequence, head, position). `first`: position 0 of a document. `sinks`: later positions that ACT's rule
    flags (a[k] > alpha / N, by raw weights). `others`: the rest. `first_normalised`, `sinks_normalised` and
    `others_normalised`: the same positions by the score of rows divided by their sum, where any such row has mass.
    `edges` of the bins are logarithmic; scores outside them count in the outermost bins. Counts are NaN where a score
    is: it may belong to `sinks` as well as to `others`.
    """

    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {
        "edges": "E",
        "first": "LK",
        "sinks": "LK",
        "others": "LK",
        "first_normalised": "LK",
        "sinks_normalised": "LK",
        "others_normalised": "LK",
    }

    def measure(self, view: LayerView) -> Sums:
        """Counts by bin."""
        assert view.attention is not None
        attention = view.attention
        first_BHS = view.first_BT[:, None].expand_as(attention.score_BHS)
        flag_BHS = sink_flags(view)["flagged"]
        # A flag of NaN is neither 0 nor 1: it counts among both, and makes NaN of both.
        sinks_BHS, others_BHS = ~first_BHS & (flag_BHS != 0), ~first_BHS & (flag_BHS != 1)
        has_mass_BHS = attention.queries_normalised_BHS > 0
        sums = {}
        for kind, chosen in (("first", first_BHS), ("sinks", sinks_BHS), ("others", others_BHS)):
            sums[kind] = _histogram(attention.score_BHS[chosen])
            sums[f"{kind}_normalised"] = _histogram(attention.score_normalised_BHS[chosen & has_mass_BHS])
        return sums

    def finish(self, sums: Arrays) -> Arrays:
        """The counts, and where the bins are."""
        return {name: EDGES.copy() if name == "edges" else sums[name] for name in self.arrays}


def _histogram(score_N: Tensor) -> Tensor:
    """Counts of scores by bin, float64 [K]; NaN throughout where a score is NaN."""
    inner_E = torch.as_tensor(EDGES[1:-1], device=score_N.device, dtype=score_N.dtype)
    count_K = torch.bucketize(score_N, inner_E, right=True).bincount(minlength=len(EDGES) - 1)
    return double(count_K) + 0.0 * double(score_N.sum())
