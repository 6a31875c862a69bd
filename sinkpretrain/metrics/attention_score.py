"""ACT's attention score of each position, and how often it makes a sink.

Shapes use B batch, T positions, S key positions, H query heads, L layers.
"""

from typing import ClassVar

import torch
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, above, double, mean, sum_by_position

ALPHA = 5.0


class AttentionScore(Metric):
    """a[k] = mean over i >= k of A[i, k], by layer, head and position (ACT, 2406.15765, sections 3 and 4.1, Fig. 5).

    `score` is its mean over sequences (weights, no unit), `score_normalised` that of rows divided by their sum. Of raw
    weights: `flagged` is the share of sequences where a[k] > alpha / N, ACT's rule for a sink, `flagged_causal_null`
    where a[k] > alpha (H_N - H_k) / (N - k), alpha times what uniform causal attention gives (H_k the k-th harmonic
    number): ACT's rule also flags the last few positions, whose scores are means of few weights.
    `flagged_normalised`: ACT's rule on rows divided by their sum. k and N are each document's own; a position that no
    sequence reaches is NaN.
    """

    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {
        "score": "LHT",
        "score_normalised": "LHT",
        "flagged": "LHT",
        "flagged_normalised": "LHT",
        "flagged_causal_null": "LHT",
    }

    def measure(self, view: LayerView) -> Sums:
        """Sums over sequences by position."""
        assert view.attention is not None
        attention = view.attention
        has_mass_BHS = attention.queries_normalised_BHS > 0
        counted = {
            "score": attention.score_BHS,
            "score_normalised": attention.score_normalised_BHS,
            **sink_flags(view),
            "count": torch.ones_like(has_mass_BHS),
            "has_mass": has_mass_BHS,
        }
        return {name: sum_by_position(view, value_BHS) for name, value_BHS in counted.items()}

    def finish(self, sums: Arrays) -> Arrays:
        """Means over sequences."""
        counts = {name: sums["has_mass" if name == "score_normalised" else "count"] for name in self.arrays}
        return {name: mean(sums[name], counts[name]) for name in self.arrays}


def sink_flags(view: LayerView) -> dict[str, Tensor]:
    """1 where a position is a sink of a head, [B, H, S]: by ACT's rule on raw weights and on rows divided by their sum
    (`flagged`, `flagged_normalised`), and by the rule relative to uniform attention on raw weights.
    """
    assert view.attention is not None
    null_BS = uniform_score(view.position_BT, view.length_BT)
    return {
        "flagged": above(view.attention.score_BHS, ALPHA / view.length_BT[:, None]),
        "flagged_normalised": above(view.attention.score_normalised_BHS, ALPHA / view.length_BT[:, None]),
        "flagged_causal_null": above(view.attention.score_BHS, ALPHA * null_BS[:, None]),
    }


def uniform_score(position_BT: Tensor, length_BT: Tensor) -> Tensor:
    """(H_N - H_k) / (N - k): the attention score of position k of N where every query attends uniformly."""
    tokens = position_BT.shape[1]
    harmonic_T = torch.zeros(tokens + 1, dtype=torch.float64)
    harmonic_T[1:] = torch.arange(1, tokens + 1, dtype=torch.float64).reciprocal().cumsum(dim=0)
    score_BT = (harmonic_T[length_BT.cpu()] - harmonic_T[position_BT.cpu()]) / double((length_BT - position_BT).cpu())
    return score_BT.float().to(position_BT.device)
