"""The base of interventions, and the two places they act on: a position's mixed values, and chosen neurons.

Shapes use B batch, T positions, N tokens at the position, H query heads, D head size, F feed-forward neurons.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sinkpretrain import registry
from sinkpretrain.attention.base import ROWS, AttentionWeights, Mask
from sinkpretrain.errors import check
from sinkpretrain.metrics.super_neurons import neurons
from sinkpretrain.model.llama import Llama
from sinkpretrain.taps import Tap, replace, watch


class Intervention(ABC):
    """A change of the forward pass. At the neutral strength it is the identity, and leaving restores the model.

    A subclass's options are the dataclass `Options` beside it.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def applied_to(self, model: Llama) -> AbstractContextManager[None]:
        """The change, inside a `with` block."""


class NothingChanged(UserWarning):
    """What was done to a model changed nothing of what it computes: results are those of the untouched model."""


@dataclass
class Effect:
    """What an intervention has done so far."""

    places: int = 0  # taps and masks that it acts on
    passes: int = 0  # forward passes of the model
    changed: bool = False  # whether anything became different at any place in any pass

    def why_nothing(self) -> str:
        """Why nothing was changed; empty where something was."""
        if self.changed:
            return ""
        if not self.passes:
            return "no forward pass of this model was made"
        if not self.places:
            return "it has nothing to act on: no layers, or no super neuron in them"
        return (
            "its strength is the neutral one, or no document is long enough for its position, or position 0 sees only "
            "itself anyway, or the passes avoid the taps it acts on"
        )


@contextmanager
def intervene(model: Llama, name: str, **options: Any) -> Iterator[Effect]:
    """One intervention of the registry, inside the block: `intervene(model, "isolate_position", position=10)`.

    Leaving the block warns of `NothingChanged` where every pass was that of the untouched model, or none was made.

    Raises:
        ConfigError: an unknown intervention or option, a missing one, or a layer or position the model does not have.
    """
    with applied(model, name, **options) as effect:
        yield effect
    if why := effect.why_nothing():
        warnings.warn(f"{name} changed nothing, forward passes: {effect.passes}; {why}", NothingChanged, stacklevel=3)


@contextmanager
def applied(model: Llama, name: str, **options: Any) -> Iterator[Effect]:
    """`intervene` for callers that look at the effect themselves: it warns of nothing."""
    kind = registry.load("interventions", name)
    change = kind(registry.build_options("interventions", name, options, f"intervene {name}")).applied_to(model)
    taps: list[list[Any]] = [module.watchers for module in model.modules() if isinstance(module, Tap)]
    masks: list[list[Any]] = [weights_of(model, layer).mask_edits for layer in range(model.config.n_layers)]
    there = [len(steps) for steps in taps + masks]
    effect, visits = Effect(), dict.fromkeys(range(model.config.n_layers), 0)

    def count(layer: int, _: Tensor) -> None:
        visits[layer] += 1
        effect.passes = max(visits.values())

    with change, ExitStack() as stack:
        for place, (steps, first) in enumerate(zip(taps + masks, there, strict=True)):
            if len(steps) > first:
                differ = _unequal if place < len(taps) else _show_other_keys
                stack.enter_context(_compared(steps, first, differ, effect))
        for layer in visits:
            stack.enter_context(watch(model, "resid_in", partial(count, layer), layer))
        yield effect


@contextmanager
def _compared(steps: list[Any], first: int, differ: Callable[[Any, Any], bool], effect: Effect) -> Iterator[None]:
    """Note whether what goes through the last steps of a chain, from `first` on, comes out different."""
    given: list[Any] = []

    def before(value: Any) -> Any:
        given[:] = [value]
        return value

    def after(value: Any) -> Any:
        effect.changed = effect.changed or differ(given[0], value)
        return value

    effect.places += 1
    steps.insert(first, before)
    steps.append(after)
    try:
        yield
    finally:
        steps.remove(before)
        steps.remove(after)


def _unequal(one: Tensor, other: Tensor) -> bool:
    return not torch.equal(one, other)


def _show_other_keys(one: Mask, other: Mask) -> bool:
    """Whether some query sees other keys by one mask than by the other."""
    if one is other:
        return False
    blocks = ((first, min(first + ROWS, one.tokens)) for first in range(one.before, one.tokens, ROWS))
    return any(not torch.equal(one.visible(*rows), other.visible(*rows)) for rows in blocks)


def chosen_layers(model: Llama, layers: Sequence[int] | None) -> list[int]:
    """The layers named, or all for None.

    Raises:
        ConfigError: a layer that the model does not have.
    """
    last = model.config.n_layers - 1
    for layer in layers or ():
        check(0 <= layer <= last, "layer", layer, f"0 .. {last}")
    return list(range(last + 1)) if layers is None else list(layers)


def weights_of(model: Llama, layer: int) -> AttentionWeights:
    """The attention weights of one layer."""
    weights: AttentionWeights = model.blocks[layer].attention.weights  # type: ignore[union-attr, assignment]
    return weights


@contextmanager
def edited_masks(model: Llama, layers: Sequence[int], edit: Callable[[Mask], Mask]) -> Iterator[None]:
    """Attention in these layers, and the weights read from them, with an edited mask.

    A compiled model runs uncompiled meanwhile: its graph was traced without the edit.
    """
    edits = [weights_of(model, layer).mask_edits for layer in layers]
    with torch.compiler.set_stance("force_eager"):
        for of_layer in edits:
            of_layer.append(edit)
        try:
            yield
        finally:
            for of_layer in edits:
                of_layer.remove(edit)


@contextmanager
def current_mask(model: Llama, layer: int) -> Iterator[list[Mask]]:
    """The mask of the pass that runs, alone in a list, for changes at taps: they see no positions of documents."""
    masks: list[Mask] = []

    def look(mask: Mask) -> Mask:
        masks[:] = [mask]
        return mask

    with edited_masks(model, [layer], look):
        yield masks


@dataclass(frozen=True, kw_only=True)
class PositionOptions:
    """One position (of each document), one layer, and how strong the change is."""

    position: int
    layer: int = 0
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a position before the first."""
        check(self.position >= 0, "position", self.position, ">= 0")


@contextmanager
def changed_mixed(model: Llama, options: PositionOptions, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """`change(mixed_BTHD, mixed_NHD)` of one layer's mixed values stands at the position instead of mixed_NHD."""
    (layer,) = chosen_layers(model, [options.layer])
    with current_mask(model, layer) as masks:

        def edit(mixed_BTHD: Tensor) -> Tensor:
            (mask,) = masks
            last = mask.tokens - 1
            check(options.position <= last, "position", options.position, f"0 .. {last}, the tokens given")
            chosen_BT = (mask.position == options.position).expand(mixed_BTHD.shape[:2])
            changed_BTHD = mixed_BTHD.clone()
            changed_BTHD[chosen_BT] = change(mixed_BTHD, mixed_BTHD[chosen_BT]).to(mixed_BTHD.dtype)
            return changed_BTHD

        with replace(model, "mixed", edit, layer):
            yield


@dataclass(frozen=True, kw_only=True)
class NeuronOptions:
    """Which neurons, and how strong the change is; `layers: null` are all.

    `choose: flagged` takes the super neurons (see the metric `super_neurons`); `random`, the control, as many others of
    the same layer, drawn by `seed`. `at`: at every position, at the first of each document alone, or at all others.
    """

    layers: list[int] | None = None
    strength: float = 1.0
    choose: Literal["flagged", "random"] = "flagged"
    seed: int = 0
    at: Literal["all", "first", "others"] = "all"

    def __post_init__(self) -> None:
        """Refuse a strength that is no share."""
        check(0 <= self.strength <= 1, "strength", self.strength, "0 (nothing) .. 1 (whole)")


def share_BT1(mask: Mask, options: NeuronOptions) -> Tensor | float:
    """How much of the change each position gets: the strength where `at` has it, 0 elsewhere; [T, 1] or [B, T, 1]."""
    if options.at == "all":
        return options.strength
    chosen_BT = (mask.position == 0) == (options.at == "first")
    return options.strength * chosen_BT[..., None].float()


def chosen_neurons(model: Llama, options: NeuronOptions) -> Mapping[int, list[int]]:
    """The chosen neurons of each layer that has any."""
    chosen: dict[int, list[int]] = {}
    for layer in chosen_layers(model, options.layers):
        flagged, _ = neurons(model.blocks[layer].matrices)  # type: ignore[arg-type]
        if options.choose == "random":
            others = sorted(set(range(model.config.d_ff)) - set(flagged))
            generator = torch.Generator().manual_seed(options.seed * model.config.n_layers + layer)
            drawn = torch.randperm(len(others), generator=generator)[: len(flagged)].tolist()
            flagged = sorted(others[place] for place in drawn)
        if flagged:
            chosen[layer] = flagged
    return chosen
