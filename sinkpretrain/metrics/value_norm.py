"""The size of the values at sinks, where the attention goes, and elsewhere.

Shapes use B batch, T positions, S key positions, H query heads, G key-value heads, E query heads of a key-value head,
D head size, L layers.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from sinkpretrain.metrics.attention_score import sink_flags
from sinkpretrain.metrics.base import Arrays, FirstAgainstOthers, LayerView, Sums, at_least_float32, double, mean


class ValueNorm(FirstAgainstOthers):
    """l2 norm of `v` per layer and key-value head; activation units (2410.10781, section 3.1: small at the sink).

    `first`: mean over position 0 of each document. `others`: mean over all other positions. `sinks`: mean over the
    (query head, position) that ACT's rule flags, a[k] > alpha / N, position 0 among them; `not_sinks`: over all others.
    NaN where there are none.
    """

    taps = ("v",)
    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {"first": "LG", "others": "LG", "sinks": "LG", "not_sinks": "LG"}

    def quantity(self, view: LayerView) -> Tensor:
        """The tokens' norms, by key-value head."""
        norm_BTG: Tensor = torch.linalg.vector_norm(at_least_float32(view.taps["v"]), dim=-1)
        return norm_BTG

    def measure(self, view: LayerView) -> Sums:
        """Sums over first and other positions, and over sinks and what is none."""
        norm_BGS = double(self.quantity(view)).transpose(1, 2)
        flag_BGES = rearrange(double(sink_flags(view)["flagged"]), "b (g e) s -> b g e s", g=norm_BGS.shape[1])
        sums = super().measure(view)
        for name, chosen_BGES in (("sinks", flag_BGES), ("not_sinks", 1.0 - flag_BGES)):
            sums[name] = (norm_BGS[:, :, None] * chosen_BGES).sum(dim=(0, 2, 3))
            sums[f"{name}_count"] = chosen_BGES.sum(dim=(0, 2, 3))
        return sums

    def finish(self, sums: Arrays) -> Arrays:
        """Means over tokens."""
        marked = {name: mean(sums[name], sums[f"{name}_count"]) for name in ("sinks", "not_sinks")}
        return {**super().finish(sums), **marked}
