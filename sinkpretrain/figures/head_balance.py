"""Whether heads with sharp attention speak louder than heads that average (2605.06611, Fig. 13)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, Point, each_arm, furthest, last_probe, no_record, probed_at
from sinkpretrain.figures.base.layers import columns, layer_of
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, colour, log_axis, plain
from sinkpretrain.runs import Run

ENTROPY, VARIANCE = "head_balance/entropy", "head_balance/variance"
FAINTEST = 0.25  # opacity of the first layer


class HeadBalance(Figure):
    """Entropy of each head's rows against the variance of its output, one column a variant, all seeds."""

    question = "Do low-entropy heads have outputs of larger variance than the averaging heads of their layer?"

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which layer is shown; null: all layers."""

        layer: int | None = None

    def __init__(self, options: Options | None = None) -> None:
        self.layer = (options or self.Options()).layer

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """A dot a head; of all layers the first are faint."""
        found = [[heads for run in furthest(arm) if (heads := self._heads(run)) is not None] for arm in arms]
        if not any(found):
            raise no_record(arms, f"probe record '{ENTROPY}'")
        which = "all layers" if self.layer is None else f"layer {self.layer}"
        title = f"Entropy and output variance of heads, {which}, {probed_at(arms)}"
        headings = [
            plain(arm.name) + ("" if of_arm else " (no record)") for arm, of_arm in zip(arms, found, strict=True)
        ]
        figure, panels = columns(title, arms, headings)
        for axes, arm, of_arm in zip(panels[0], arms, found, strict=True):
            if of_arm:
                _scatter(axes, arm, of_arm)
            axes.set_xlabel("entropy of rows (nats)")
        log_axis(panels[0, 0], "y")
        panels[0, 0].set_ylabel("variance of the head's output\n(squared activation)")
        if self.layer is None:
            faint: dict[str, Any] = {"color": GREY, "linestyle": "", "marker": "o", "markeredgewidth": 0}
            first = Line2D([], [], alpha=FAINTEST, label="a head of the first layer", **faint)
            last = Line2D([], [], label="a head of the last layer", **faint)
            legend(figure, [], others=[first, last])
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The rank correlation within layers, and how unequal the heads of a layer are."""
        correlation, spread = (
            each_arm(arms, partial(self._number, of=of), form)
            for of, form in ((_rank_correlation, ".2f"), (_spread, ".3g"))
        )
        return (
            "Dots of one shade that fall to the right are the imbalance: sharp heads are loud. Rank correlation of "
            f"entropy and variance within a layer, mean over layers: {correlation}; largest over smallest variance of "
            f"a layer's heads, median over layers: {spread}."
        )

    def _heads(self, run: Run) -> np.ndarray | None:
        """Entropy and variance of the heads of the layers shown, [2, layers, H]; None without a record."""
        both = [last_probe(run, array) for array in (ENTROPY, VARIANCE)]
        values = [value_LH for value_LH in both if value_LH is not None]
        if len(values) < len(both):
            return None
        if self.layer is None:
            return np.stack(values)
        return np.stack([layer_of(value_LH, self.layer, run)[None] for value_LH in values])

    def _number(self, run: Run, of: Callable[[np.ndarray, np.ndarray], float]) -> Point | None:
        """A number of these heads."""
        heads = self._heads(run)
        return None if heads is None else Point(run.probe_steps()[-1], of(*heads))


def _scatter(axes: Axes, arm: Arm, found: Sequence[np.ndarray]) -> None:
    """The heads of all seeds."""
    colours, entropy, variance = [], [], []
    for entropy_LH, variance_LH in found:
        layers, heads = entropy_LH.shape
        opacity_L = np.linspace(FAINTEST, 1, layers) if layers > 1 else np.ones(1)
        colours += [to_rgba(colour(arm), opacity) for opacity in np.repeat(opacity_L, heads)]
        entropy.append(entropy_LH.ravel())
        variance.append(variance_LH.ravel())
    look: dict[str, Any] = {"c": colours, "s": 18, "linewidths": 0, "label": plain(arm.name)}
    axes.scatter(np.concatenate(entropy), np.concatenate(variance), **look)


def _rank_correlation(entropy_LH: np.ndarray, variance_LH: np.ndarray) -> float:
    """Spearman's, within each layer; NaN for layers of one head."""
    ranks = [np.argsort(np.argsort(value_LH, axis=1), axis=1).astype(float) for value_LH in (entropy_LH, variance_LH)]
    centred = [rank_LH - rank_LH.mean(axis=1, keepdims=True) for rank_LH in ranks]
    together, own = (centred[0] * centred[1]).sum(axis=1), np.square(centred[0]).sum(axis=1)
    return float(np.mean(np.divide(together, own, out=np.full_like(own, np.nan), where=own > 0)))


def _spread(entropy_LH: np.ndarray, variance_LH: np.ndarray) -> float:
    return float(np.median(variance_LH.max(axis=1) / variance_LH.min(axis=1)))
