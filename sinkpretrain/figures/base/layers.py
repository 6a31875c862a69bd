"""Figures of a single layer: which layer of which run is shown, and one column of panels a variant.

Shapes use L layers, H heads, F feed-forward neurons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sinkpretrain.errors import ConfigError
from sinkpretrain.figures.base.arms import Arm, Point, config_of, furthest, no_record
from sinkpretrain.figures.base.figure import Figure
from sinkpretrain.figures.base.style import PAPER, canvas, plain
from sinkpretrain.runs import Run

HEADING = 9.0  # points: six columns beside each other hold a variant and what is shown of it


class Shown(NamedTuple):
    """One layer of one run's last probe: the arrays that were asked for, there."""

    run: Run
    layer: int
    values: tuple[np.ndarray, ...]


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """The layer that is shown of each run: the one asked for, or the one picked from the run's own records."""

    layer: int | None
    rule: str  # what the picked layer is, in words
    needs: tuple[str, ...]  # the probe arrays that decide
    pick: Callable[..., np.ndarray]  # a score of each layer, [L], from these arrays: the highest is picked

    @property
    def words(self) -> str:
        """Which layer it is, for a title."""
        return self.rule if self.layer is None else f"layer {self.layer}"

    def of(self, run: Run, *arrays: str) -> Shown | None:
        """A run's layer of these arrays; None where one of them, or of those that decide, was not recorded.

        Raises:
            ConfigError: the run has no such layer.
        """
        record = run.probe() if run.probe_steps() else {}
        needs = self.needs if self.layer is None else ()
        if any(name not in record for name in (*arrays, *needs)):
            return None
        double = {name: record[name].astype(np.float64) for name in (*arrays, *needs)}
        layer = self.layer
        if layer is None:
            layer = int(np.argmax(self.pick(*(double[name] for name in needs))))
        return Shown(run, layer, tuple(layer_of(double[name], layer, run) for name in arrays))

    def of_each(self, arms: Sequence[Arm], *arrays: str) -> list[Shown | None]:
        """What is shown of each arm: its first seed, since layers, heads and neurons of seeds do not correspond.

        Raises:
            DataError: no run has the arrays.
            ConfigError: a run has no such layer.
        """
        found = [[shown for run in furthest(arm) if (shown := self.of(run, *arrays)) is not None] for arm in arms]
        if not any(found):
            raise no_record(arms, "probe records " + ", ".join(f"'{name}'" for name in (*arrays, *self.needs)))
        return [of_arm[0] if of_arm else None for of_arm in found]

    def number(self, reduce: Callable[..., float], *arrays: str) -> Callable[[Run], Point | None]:
        """What gives one number from a run's layer of these arrays."""

        def point(run: Run) -> Point | None:
            shown = self.of(run, *arrays)
            return None if shown is None else Point(run.probe_steps()[-1], float(reduce(*shown.values)))

        return point


def super_neuron_layer(layer: int | None) -> LayerChoice:
    """The layer asked for, or the one of the strongest super neuron.

    That is the flagged neuron whose mean activation at the first token exceeds that at the others by most (a ratio
    would favour neurons that are silent elsewhere); in a run without a flagged neuron, the largest at the first token.
    """
    needs = tuple(f"super_neurons/{name}" for name in ("flagged", "first", "others"))
    return LayerChoice(layer=layer, rule="layer of the strongest super neuron", needs=needs, pick=_strongest)


class SuperNeuronFigure(Figure):
    """A figure of one layer's super neuron."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which layer is shown; null: in each run the one of the strongest super neuron."""

        layer: int | None = None

    def __init__(self, options: Options | None = None) -> None:
        self.choice = super_neuron_layer((options or self.Options()).layer)


def strongest_neuron(flagged_F: np.ndarray, first_F: np.ndarray, others_F: np.ndarray) -> int:
    """The neuron of a layer by which `super_neuron_layer` judges it."""
    return int(np.argmax(_strength(flagged_F, first_F, others_F)))


def layer_of(value_L: np.ndarray, layer: int, run: Run) -> np.ndarray:
    """A layer of an array.

    Raises:
        ConfigError: there is no such layer.
    """
    if not 0 <= layer < len(value_L):
        raise ConfigError(f"layer: {layer} is not in {run.name}, whose layers are 0 to {len(value_L) - 1}")
    return np.asarray(value_L[layer])


def columns(
    title: str, arms: Sequence[Arm], headings: Sequence[str], *, rows: int = 1, height: float = 4.2, **grid: Any
) -> tuple[Canvas, np.ndarray]:
    """One column a variant under its heading, with [row, column] axes that share their scales along a row."""
    grid = {"sharex": "row", "sharey": "row"} | grid
    figure, panels = canvas(title, rows=rows, columns=len(arms), height=height, **grid)
    for axes, heading in zip(panels[0], headings, strict=True):
        axes.set_title(heading, loc="left", fontsize=HEADING)
    return figure, panels


def index_axis(axes: Axes, most: int = 4) -> None:
    """Heads, neurons or channels on the x axis: at most so many steps of whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))


def mark_index(axes: Axes, index: int, value_X: np.ndarray) -> None:
    """Write a neuron's or channel's index beside its value, towards the middle of the axes."""
    left = index < len(value_X) / 2
    look: dict[str, Any] = {"ha": "left" if left else "right", "va": "center", "fontsize": HEADING}
    place = (index, float(value_X[index]))
    text = axes.annotate(str(index), place, xytext=(7 if left else -7, 0), textcoords="offset points", **look)
    text.set_path_effects([withStroke(linewidth=2.5, foreground=PAPER)])


def heading(arm: Arm, shown: Shown | None, more: str = "") -> str:
    """`softmax, seed 0` where there are several; beneath it the layer and what else there is to say."""
    if shown is None:
        return f"{plain(arm.name)} (no record)"
    seed = f", seed {config_of(shown.run).seed}" if len(arm.runs) > 1 else ""
    return f"{plain(arm.name)}{seed}\nlayer {shown.layer}{more}"


def _strongest(flagged_LF: np.ndarray, first_LF: np.ndarray, others_LF: np.ndarray) -> np.ndarray:
    return np.asarray(_strength(flagged_LF, first_LF, others_LF).max(axis=-1))


def _strength(flagged_XF: np.ndarray, first_XF: np.ndarray, others_XF: np.ndarray) -> np.ndarray:
    """How strong each neuron is, [..., F]: flagged ones by excess, or all by activation where none is flagged."""
    return np.where(flagged_XF == 1, first_XF - others_XF, -np.inf) if flagged_XF.any() else first_XF
