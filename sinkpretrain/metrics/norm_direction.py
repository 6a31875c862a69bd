"""RMSNorm as a directional filter: what is left of a token that one channel dominates.

Shapes use B batch, T positions, N tokens, C model width, L layers.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, at_least_float32, double, mean


class NormDirection(Metric):
    """The direction of normed tokens as attention reads them, by layer (2605.06611, section 4.3); no units.

    A normed token is RMSNorm(`resid_in`) with the norm's gain. `top_share_first`, `top_share_others`: share of its
    energy in its largest channel. `cosine_first`, `cosine_others`: mean cosine between two normed tokens, over all
    pairs; 1 where the norm maps every one to the same direction. `first`: position 0 of each document, which is the
    same token in all where there is a BOS; `others`: all other positions. A cosine of fewer than two tokens is NaN.
    """

    taps = ("resid_in",)
    arrays: ClassVar[dict[str, str]] = {
        "top_share_first": "L",
        "top_share_others": "L",
        "cosine_first": "L",
        "cosine_others": "L",
    }

    def measure(self, view: LayerView) -> Sums:
        """Sums of shares, and of unit vectors [C]: the mean cosine of all pairs follows from their sum."""
        resid_BTC = at_least_float32(view.taps["resid_in"])
        unit_BTC: Tensor = torch.nn.functional.normalize(resid_BTC * view.matrices["attention_norm"], dim=-1)
        sums = {}
        for name, chosen_BT in (("first", view.first_BT), ("others", ~view.first_BT)):
            unit_NC = double(unit_BTC[chosen_BT])
            sums[f"share_{name}"] = unit_NC.square().amax(dim=-1).sum()
            sums[f"sum_{name}"] = unit_NC.sum(dim=0)
            sums[f"count_{name}"] = double(chosen_BT.sum())
        return sums

    def finish(self, sums: Arrays) -> Arrays:
        """Mean shares, and mean cosines over pairs: (|sum of n unit vectors|^2 - n) / (n (n - 1))."""
        found = {}
        for name in ("first", "others"):
            count_L = sums[f"count_{name}"]
            pairs_L = count_L * (count_L - 1)
            found[f"top_share_{name}"] = mean(sums[f"share_{name}"], count_L)
            found[f"cosine_{name}"] = mean(np.square(sums[f"sum_{name}"]).sum(axis=-1) - count_L, pairs_L)
        return {name: found[name] for name in self.arrays}
