"""The share of heads that have a sink.

Shapes use B batch, T positions, S key positions, H query heads, L layers.
"""

from typing import ClassVar

import numpy as np
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, Inputs, LayerView, Metric, Sums, above, mean, sum_by_position

THRESHOLD = 0.3
SHORTEST = 16  # tokens: uniform attention over 9 tokens or fewer scores above the threshold by itself


class SinkRate(Metric):
    """Share of sequences in which token k scores above 0.3, score = mean over i >= k of A[i, k] (2410.10781).

    Per layer and head, on the first 64 tokens of 100 held-out windows, as in the paper. `first`: k = 0. `others_max`:
    the largest share among k > 0, each k counted over the sequences that reach it (the last few are means of few
    weights). `first_normalised`: rows divided by their sum, a sequence without any mass left out. `sequences`: how
    many were counted. With a document mask each document within the 64 tokens is a sequence of its own length; those
    shorter than `SHORTEST` are left out.
    """

    inputs = Inputs(tokens=64, sequences=100)
    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {"first": "LH", "first_normalised": "LH", "others_max": "LH", "sequences": ""}

    def measure(self, view: LayerView) -> Sums:
        """How many sequences score above the threshold at each position, and how many there are."""
        assert view.attention is not None
        attention = view.attention
        shortest = min(SHORTEST, view.length_BT.shape[1])
        counted_BHS = (view.length_BT >= shortest)[:, None].expand_as(attention.received_BHS)
        has_mass_BHS = counted_BHS & (attention.queries_normalised_BHS > 0)
        sinks_HS = _sinks(view, attention.score_BHS, counted_BHS)
        return {
            "sinks": sinks_HS,
            "count": sum_by_position(view, counted_BHS),
            "first_normalised": _sinks(view, attention.score_normalised_BHS, has_mass_BHS)[:, 0],
            "first_normalised_count": sum_by_position(view, has_mass_BHS)[:, 0],
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Shares of the counted sequences."""
        share_LHS = mean(sums["sinks"], sums["count"])
        others_LHS = np.where(sums["count"] > 0, share_LHS, -np.inf)[..., 1:]
        return {
            "first": share_LHS[..., 0],
            "first_normalised": mean(sums["first_normalised"], sums["first_normalised_count"]),
            "others_max": np.where(sums["count"][..., 1:].any(axis=-1), others_LHS.max(axis=-1), np.nan),
            "sequences": np.asarray(sums["count"][0, 0, 0]),
        }

    def scalars(self, arrays: Arrays) -> dict[str, float]:
        """The sink rate of the model, of raw and of row-normalised weights: shares from 0 to 1."""
        return {
            "sink/rate": float(arrays["first"].mean()),
            "sink/rate_normalised": float(arrays["first_normalised"].mean()),
        }


def _sinks(view: LayerView, score_BHS: Tensor, counted_BHS: Tensor) -> Tensor:
    """Number of counted sequences whose score is above the threshold, by position [H, S]."""
    return sum_by_position(view, above(score_BHS, THRESHOLD).where(counted_BHS, 0.0))
