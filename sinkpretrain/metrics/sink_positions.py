"""Where in the text sinks sit.

Shapes use B batch, T positions, S key positions, H query heads, L layers.
"""

from typing import ClassVar

import torch

from sinkpretrain.metrics.attention_score import sink_flags
from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, sum_by_position


class SinkPositions(Metric):
    """How many (sequence, head) have a sink at each position, by layer (ACT, 2406.15765, Fig. 5).

    `flagged`: by ACT's rule, a[k] > alpha / N. `flagged_causal_null`: a[k] > alpha (H_N - H_k) / (N - k), alpha times
    what uniform causal attention gives, since alpha / N alone flags early positions under uniform attention when N is
    large. Both of raw weights; `flagged_normalised`: ACT's rule on rows divided by their sum. `count`: how many were
    looked at. k and N are each document's own.
    """

    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {
        "flagged": "LT",
        "flagged_normalised": "LT",
        "flagged_causal_null": "LT",
        "count": "LT",
    }

    def measure(self, view: LayerView) -> Sums:
        """Counts by position, over heads and sequences."""
        flags = sink_flags(view)
        counted = {**flags, "count": torch.ones_like(flags["flagged"])}
        return {name: sum_by_position(view, value_BHS).sum(dim=0) for name, value_BHS in counted.items()}

    def finish(self, sums: Arrays) -> Arrays:
        """The counts themselves."""
        return {name: sums[name] for name in self.arrays}
