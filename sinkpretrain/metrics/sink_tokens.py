"""Which tokens are sinks.

Shapes use B batch, T positions, S key positions, H query heads, V vocabulary, K tokens of the table, L layers.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sinkpretrain.metrics.attention_score import sink_flags
from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, double

TABLE = 32  # tokens named in the record


class SinkTokens(Metric):
    """The tokens that are sinks most often, over all layers and heads (ACT, 2406.15765, Table 1).

    `token`: ids, the most often flagged first. Counts of (sequence, layer, head, position): `first`, flagged by ACT's
    rule a[k] > alpha / N at position 0 of a document; `later`, at other positions; `later_causal_null`, there by the
    rule that is relative to uniform attention; `seen`, looked at. `flagged_total`: flags of all tokens, by ACT's rule.
    Raw weights; `first_normalised` and `later_normalised` are of rows divided by their sum. What the tokens read is
    added as `text` where the tokenizer is known.
    """

    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {
        "token": "K",
        "first": "K",
        "later": "K",
        "later_causal_null": "K",
        "first_normalised": "K",
        "later_normalised": "K",
        "seen": "K",
        "flagged_total": "",
    }

    def measure(self, view: LayerView) -> Sums:
        """Counts by token, [V], over heads and sequences."""
        flags = sink_flags(view)
        first_B1S = view.first_BT[:, None]
        counted = {
            "first": flags["flagged"] * first_B1S,
            "later": flags["flagged"] * ~first_B1S,
            "later_causal_null": flags["flagged_causal_null"] * ~first_B1S,
            "first_normalised": flags["flagged_normalised"] * first_B1S,
            "later_normalised": flags["flagged_normalised"] * ~first_B1S,
            "seen": torch.ones_like(flags["flagged"]),
        }
        return {name: _by_token(view, value_BHS) for name, value_BHS in counted.items()}

    def finish(self, sums: Arrays) -> Arrays:
        """The counts of the tokens flagged most often."""
        count_V = {name: value_LV.sum(axis=0) for name, value_LV in sums.items()}
        flagged_V = count_V["first"] + count_V["later"]
        # NaN goes first: sorted to the end, the tokens of a diverged model would read 'never flagged'.
        token_K = np.argsort(np.where(np.isnan(flagged_V), -np.inf, -flagged_V), kind="stable")[:TABLE]
        return {
            "token": token_K.astype(np.float64),
            **{name: value_V[token_K] for name, value_V in count_V.items()},
            "flagged_total": np.asarray(flagged_V.sum()),
        }


def _by_token(view: LayerView, value_BHS: Tensor) -> Tensor:
    """Sum over heads and positions by token id, float64 [V]."""
    value_BS = double(value_BHS).sum(dim=1)
    tokens_BS = view.tokens_BT.to(value_BS.device)
    return value_BS.new_zeros(view.vocab_size).scatter_add(0, tokens_BS.flatten(), value_BS.flatten())
