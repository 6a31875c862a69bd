"""Control of `amplify_variance`: the norm grows, the direction stays.

Shapes use B batch, T positions, N tokens at the position, H query heads, D head size.
"""

from contextlib import AbstractContextManager

from torch import Tensor

from sinkpretrain.interventions.base import Intervention, PositionOptions, changed_mixed
from sinkpretrain.model.llama import Llama


class ScaleNorm(Intervention):
    """mixed_k <- strength mixed_k in one layer (the control of 2605.06611, Fig. 6); strength 1 is the identity.

    Computed as mixed_k + (strength - 1) mixed_k.
    """

    Options = PositionOptions

    def applied_to(self, model: Llama) -> AbstractContextManager[None]:
        """The change, inside a `with` block."""
        strength: float = self.options.strength

        def scale(_: Tensor, mixed_NHD: Tensor) -> Tensor:
            return mixed_NHD + (strength - 1) * mixed_NHD

        return changed_mixed(model, self.options, scale)
