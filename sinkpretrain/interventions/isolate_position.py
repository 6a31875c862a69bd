"""Isolate a position: it aggregates no values of others, as the first token never does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sinkpretrain.attention.base import Mask
from sinkpretrain.errors import check
from sinkpretrain.interventions.base import Intervention, chosen_layers, edited_masks
from sinkpretrain.model.llama import Llama


@dataclass(frozen=True, kw_only=True)
class IsolatePositionOptions:
    """The position (of each document), and in which layers; `layers: null` are all, an empty list changes nothing."""

    position: int
    layers: list[int] | None = None

    def __post_init__(self) -> None:
        """Refuse a position before the first."""
        check(self.position >= 0, "position", self.position, ">= 0")


class IsolatePosition(Intervention):
    """The query at one position attends to itself only; later tokens still see its key (2605.06611, section 3, Fig. 5).

    Both what attention mixes and the weights that metrics read are of the edited mask.
    """

    Options = IsolatePositionOptions

    @contextmanager
    def applied_to(self, model: Llama) -> Iterator[None]:
        """The change, inside a `with` block."""
        position = self.options.position

        def isolate(mask: Mask) -> Mask:
            check(position < mask.tokens, "position", position, f"0 .. {mask.tokens - 1}, the tokens given")
            if not latest or latest[0] is not mask:
                latest[:] = [mask, replace(mask, isolated=position)]
            return latest[1]

        latest: list[Mask] = []  # one edited mask serves all layers of a pass: its dense form is made once
        with edited_masks(model, chosen_layers(model, self.options.layers), isolate):
            yield
