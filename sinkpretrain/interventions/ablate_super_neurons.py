"""Silence super neurons.

Shapes use B batch, T positions, F feed-forward neurons.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor

from sinkpretrain.attention.base import Mask
from sinkpretrain.interventions.base import Intervention, NeuronOptions, chosen_neurons, current_mask, share_BT1
from sinkpretrain.model.llama import Llama
from sinkpretrain.taps import replace


class AblateSuperNeurons(Intervention):
    """`mlp_hidden` of the chosen neurons times 1 - strength: at 1 they are silent, 0 is the identity.

    `at: first` silences them at the first token of each document alone, `others` everywhere else.

    The necessity half of the test that 2605.06611 leaves open: if super neurons cause the sink, it goes with them.
    """

    Options = NeuronOptions

    @contextmanager
    def applied_to(self, model: Llama) -> Iterator[None]:
        """The change, inside a `with` block."""
        with ExitStack() as stack:
            for layer, chosen in chosen_neurons(model, self.options).items():
                masks = stack.enter_context(current_mask(model, layer))
                stack.enter_context(replace(model, "mlp_hidden", partial(self._silence, chosen, masks), layer))
            yield

    def _silence(self, chosen: list[int], masks: list[Mask], hidden_BTF: Tensor) -> Tensor:
        hidden_BTF = hidden_BTF.clone()
        hidden_BTF[..., chosen] *= 1 - share_BT1(masks[0], self.options)
        return hidden_BTF
