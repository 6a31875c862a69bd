"""How far the largest activation of a sequence stands above its typical one.

Shapes use B batch, T positions, C model width, L layers.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, at_least_float32, double, mean


class MassiveActivation(Metric):
    """Mean over sequences of max |h| / median |h|, both over all positions and channels of one sequence's `resid_out`.

    That mean is `ratio`; no unit (after the massive activations of 2402.17762). A maximum over all sequences would grow
    with their number, and could not be added up. The median of an even number of values is the lower of the middle two.
    `first`: share of sequences whose largest activation sits at position 0. With a document mask each document is a
    sequence.
    """

    taps = ("resid_out",)
    arrays: ClassVar[dict[str, str]] = {"ratio": "L", "first": "L"}

    def measure(self, view: LayerView) -> Sums:
        """Sums over sequences, and their number."""
        ratios, at_first = [], []
        for size_TC in _sequences(at_least_float32(view.taps["resid_out"]).abs(), view):
            largest_T = size_TC.amax(dim=-1)
            ratios.append(largest_T.amax() / size_TC.median())
            at_first.append(largest_T.argmax() == 0)
        return {
            "ratio": double(torch.stack(ratios)).sum(),
            "first": double(torch.stack(at_first)).sum(),
            "count": double(view.first_BT.sum()),
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Means over sequences."""
        return {name: mean(sums[name], sums["count"]) for name in self.arrays}


def _sequences(x_BTC: Tensor, view: LayerView) -> Iterator[Tensor]:
    """Each document of each window, [T, C] with its own T."""
    for x_TC, first_T in zip(x_BTC, view.first_BT.cpu(), strict=True):
        starts = first_T.nonzero()[:, 0].tolist()
        yield from x_TC.tensor_split(starts[1:])
