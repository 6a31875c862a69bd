"""The size of the values at the first token, where the attention goes, and elsewhere.

Shapes use B batch, T positions, G key-value heads, D head size, L layers.
"""

from typing import ClassVar

import torch
from torch import Tensor

from sinkpretrain.metrics.base import FirstAgainstOthers, LayerView, at_least_float32


class ValueNorm(FirstAgainstOthers):
    """l2 norm of `v` per layer and key-value head; activation units (2410.10781, section 3.1: small at the sink).

    `first`: mean over position 0 of each document. `others`: mean over all other positions.
    """

    taps = ("v",)
    arrays: ClassVar[dict[str, str]] = {"first": "LG", "others": "LG"}

    def quantity(self, view: LayerView) -> Tensor:
        """The tokens' norms, by key-value head."""
        norm_BTG: Tensor = torch.linalg.vector_norm(at_least_float32(view.taps["v"]), dim=-1)
        return norm_BTG
