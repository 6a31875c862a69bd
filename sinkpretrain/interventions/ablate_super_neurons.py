"""Silence super neurons.

Shapes use B batch, T positions, F feed-forward neurons.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor

from sinkpretrain.interventions.base import Intervention, NeuronOptions, chosen_neurons
from sinkpretrain.model.llama import Llama
from sinkpretrain.taps import replace


class AblateSuperNeurons(Intervention):
    """`mlp_hidden` of the chosen neurons times 1 - strength: at 1 they are silent, 0 is the identity.

    The necessity half of the test that 2605.06611 leaves open: if super neurons cause the sink, it goes with them.
    """

    Options = NeuronOptions

    @contextmanager
    def applied_to(self, model: Llama) -> Iterator[None]:
        """The change, inside a `with` block."""
        with ExitStack() as stack:
            for layer, chosen in chosen_neurons(model, self.options).items():
                stack.enter_context(replace(model, "mlp_hidden", partial(self._silence, chosen), layer))
            yield

    def _silence(self, chosen: list[int], hidden_BTF: Tensor) -> Tensor:
        hidden_BTF = hidden_BTF.clone()
        hidden_BTF[..., chosen] *= 1 - self.options.strength
        return hidden_BTF
