"""Amplify the variance of one position's mixed values.

Shapes use B batch, T positions, N tokens at the position, H query heads, D head size.
"""

from contextlib import AbstractContextManager

from torch import Tensor

from sinkpretrain.interventions.base import Intervention, PositionOptions, changed_mixed
from sinkpretrain.model.llama import Llama


class AmplifyVariance(Intervention):
    """mixed_k <- mu + strength (mixed_k - mu) in one layer (2605.06611, section 3, Fig. 6); strength 1 is the identity.

    mu is the mean of `mixed` over the batch and all positions, one vector a head: results depend on what else is in
    the batch. Computed as mixed_k + (strength - 1)(mixed_k - mu).
    """

    Options = PositionOptions

    def applied_to(self, model: Llama) -> AbstractContextManager[None]:
        """The change, inside a `with` block."""
        strength: float = self.options.strength

        def amplify(mixed_BTHD: Tensor, mixed_NHD: Tensor) -> Tensor:
            return mixed_NHD + (strength - 1) * from_mean(mixed_BTHD, mixed_NHD)

        return changed_mixed(model, self.options, amplify)


def from_mean(mixed_BTHD: Tensor, mixed_NHD: Tensor) -> Tensor:
    """mixed_k - mu."""
    return mixed_NHD - mixed_BTHD.mean(dim=(0, 1))
