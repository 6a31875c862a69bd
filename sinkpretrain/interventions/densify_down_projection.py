"""Spread what super neurons write over all channels.

Shapes use B batch, T positions, N chosen neurons, C model width, F feed-forward neurons.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from sinkpretrain.interventions.base import Intervention, NeuronOptions, chosen_neurons, current_mask, share_BT1
from sinkpretrain.model.llama import Llama
from sinkpretrain.taps import replace, watch


class DensifyDownProjection(Intervention):
    """W_down's column of each chosen neuron, w, becomes w + strength (dense(w) - w); 0 is the identity.

    dense(w) has the signs and the l2 norm of w, and channels of equal size: |w| / sqrt(C) each. The neurons stay as
    active as they are, what they add to the residual stream stays as long, only its channel sparsity goes: the test
    that 2605.06611's referees ask for. The weights themselves are not touched; the difference is added to `mlp_out`.
    """

    Options = NeuronOptions

    @contextmanager
    def applied_to(self, model: Llama) -> Iterator[None]:
        """The change, inside a `with` block."""
        with ExitStack() as stack:
            for layer, chosen in chosen_neurons(model, self.options).items():
                self._densify(model, layer, chosen, stack)
            yield

    def _densify(self, model: Llama, layer: int, chosen: list[int], stack: ExitStack) -> None:
        down_CN = model.blocks[layer].matrices["w_down"][:, chosen]  # type: ignore[index]
        change_CN = dense(down_CN) - down_CN
        masks = stack.enter_context(current_mask(model, layer))
        hidden_BTN: list[Tensor] = []

        def keep(hidden_BTF: Tensor) -> None:
            hidden_BTN[:] = [hidden_BTF[..., chosen]]

        def add(out_BTC: Tensor) -> Tensor:
            added_BTC = hidden_BTN[0] @ change_CN.T.to(out_BTC.dtype)
            densified_BTC: Tensor = out_BTC + share_BT1(masks[0], self.options) * added_BTC
            return densified_BTC

        stack.enter_context(watch(model, "mlp_hidden", keep, layer))
        stack.enter_context(replace(model, "mlp_out", add, layer))


def dense(down_CN: Tensor) -> Tensor:
    """Columns of the same norm and signs whose channels are of equal size."""
    size_N: Tensor = torch.linalg.vector_norm(down_CN, dim=0) / math.sqrt(len(down_CN))
    return torch.where(down_CN < 0, -size_N, size_N)
