"""Attention maps: the weights themselves, averaged over heads and sequences.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, L layers.
"""

from typing import ClassVar

import torch
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, Inputs, LayerView, Metric, Sums, at_least_float32, double, mean


class AttentionMap(Metric):
    """Mean over sequences and heads of A[t, s] on the first 64 tokens, by layer; no unit (ACT, 2406.15765, Fig. 1).

    `raw`: the weights. `normalised`: each row divided by its sum, rows without mass left out. t and s are positions
    within a document; a query position that no document reaches is NaN.
    """

    inputs = Inputs(tokens=64)
    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {"raw": "LTS", "normalised": "LTS"}

    def measure(self, view: LayerView) -> Sums:
        """Sums over sequences and heads, [T, S], and how many rows there were, [T]."""
        tokens = view.position_BT.shape[1]
        position_BT = view.position_BT.cpu()
        maps = {name: torch.zeros(tokens * tokens, dtype=torch.float64) for name in self.arrays}
        counts = {name: torch.zeros(tokens, dtype=torch.float64) for name in self.arrays}
        for row, weights_BHRS in view.rows():
            weights_BHRS = at_least_float32(weights_BHRS)
            mass_BHR1 = weights_BHRS.sum(dim=-1, keepdim=True)
            query_BR = position_BT[:, row : row + weights_BHRS.shape[2]]
            # Keys of other documents have a weight of zero: where it is added does not matter.
            place_BRS = query_BR[:, :, None] * tokens + position_BT[:, None, :]
            normalised_BHRS = weights_BHRS / mass_BHR1.masked_fill(mass_BHR1 == 0, 1.0)
            counted = {"raw": torch.ones_like(mass_BHR1), "normalised": mass_BHR1 != 0}
            for name, summed in (("raw", weights_BHRS), ("normalised", normalised_BHRS)):
                _add(maps[name], place_BRS, double(summed).sum(dim=1))
                _add(counts[name], query_BR, double(counted[name]).sum(dim=(1, 3)))
        return {
            **{name: flat.view(tokens, tokens) for name, flat in maps.items()},
            **{f"{name}_count": count_T for name, count_T in counts.items()},
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Means over sequences and heads."""
        return {name: mean(sums[name], sums[f"{name}_count"]) for name in self.arrays}


def _add(total: Tensor, place: Tensor, value: Tensor) -> None:
    """Add values at flat places, in place."""
    total.scatter_add_(0, place.flatten(), value.cpu().flatten())
