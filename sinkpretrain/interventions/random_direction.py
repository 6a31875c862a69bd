"""Control of `amplify_variance`: a change of the same size in a random direction.

Shapes use B batch, T positions, N tokens at the position, H query heads, D head size.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkpretrain.interventions.amplify_variance import from_mean
from sinkpretrain.interventions.base import Intervention, PositionOptions, changed_mixed
from sinkpretrain.model.llama import Llama


@dataclass(frozen=True, kw_only=True)
class RandomDirectionOptions(PositionOptions):
    """One position, one layer; `strength` counts in distances from the mean; `seed` of the directions."""

    seed: int = 0


class RandomDirection(Intervention):
    """mixed_k <- mixed_k + strength |mixed_k - mu| u, u a random unit vector a head and sequence; 0 is the identity.

    The change has, in each head, the l2 norm of that of `amplify_variance` at 1 + strength. Directions are drawn on the
    CPU from `seed`, the same in every pass.
    """

    Options = RandomDirectionOptions

    def applied_to(self, model: Llama) -> AbstractContextManager[None]:
        """The change, inside a `with` block."""
        strength: float = self.options.strength

        def push(mixed_BTHD: Tensor, mixed_NHD: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(self.options.seed)
            unit_NHD = torch.nn.functional.normalize(torch.randn(mixed_NHD.shape, generator=generator), dim=-1)
            distance_NH1 = torch.linalg.vector_norm(from_mean(mixed_BTHD, mixed_NHD), dim=-1, keepdim=True)
            change_NHD: Tensor = strength * distance_NH1 * unit_NHD.to(mixed_NHD)
            return mixed_NHD + change_NHD

        return changed_mixed(model, self.options, push)
