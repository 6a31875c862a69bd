"""The size of the representations that attention reads.

Shapes use B batch, T positions, C model width, L layers.
"""

from typing import ClassVar

import torch
from torch import Tensor

from sinkpretrain.metrics.base import FirstAgainstOthers, LayerView, at_least_float32


class RepresentationNorm(FirstAgainstOthers):
    """l2 norm of `resid_in`, what the layer's attention reads, before the norm; activation units (2605.06611, Fig. 3).

    `first`: mean over position 0 of each document. `others`: mean over all other positions.
    """

    taps = ("resid_in",)
    arrays: ClassVar[dict[str, str]] = {"first": "L", "others": "L"}

    def quantity(self, view: LayerView) -> Tensor:
        """The tokens' norms."""
        norm_BT: Tensor = torch.linalg.vector_norm(at_least_float32(view.taps["resid_in"]), dim=-1)
        return norm_BT
