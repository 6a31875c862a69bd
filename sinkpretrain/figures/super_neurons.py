"""Feed-forward neurons whose weights stand out (2605.06611, Fig. 8)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed_at
from sinkpretrain.figures.base.layers import (
    Shown,
    SuperNeuronFigure,
    columns,
    heading,
    index_axis,
    mark_index,
    strongest_neuron,
)
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, INK, colour, plain

NORMS = ("super_neurons/gate_norm", "super_neurons/up_norm")
FLAGGED, FIRST, OTHERS = (f"super_neurons/{name}" for name in ("flagged", "first", "others"))


class SuperNeurons(SuperNeuronFigure):
    """Norms of each hidden neuron's rows of W_gate, above, and of W_up, below, in one layer; one column a variant."""

    question = "Do a few feed-forward neurons have much larger input weights than the rest of their layer?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Every neuron a dot, those flagged in both norms ringed, the strongest at the first token by its index."""
        found = self.choice.of_each(arms, *NORMS, FLAGGED, FIRST, OTHERS)
        headings = [heading(arm, shown, _count(shown)) for arm, shown in zip(arms, found, strict=True)]
        title = f"Weights of feed-forward neurons, {self.choice.words},\n{probed_at(arms)}"
        figure, panels = columns(title, arms, headings, rows=2, height=5.9, sharex="col")
        for column, arm, shown in zip(panels.T, arms, found, strict=True):
            if shown is not None:
                *norms, flagged_F, first_F, others_F = shown.values
                strongest = strongest_neuron(flagged_F, first_F, others_F)
                for axes, norm_F in zip(column, norms, strict=True):
                    _neurons(axes, arm, norm_F, flagged_F == 1, strongest)
            column[-1].set_xlabel("neuron (index)")
        panels[0, 0].set_ylabel("norm of the neuron's row\nof W_gate (l2)")
        panels[1, 0].set_ylabel("norm of the neuron's row\nof W_up (l2)")
        ring = Line2D([], [], color=GREY, linestyle="", marker="o", markersize=7, markerfacecolor="none")
        ring.set_label("flagged: both norms stand out")
        dot = Line2D([], [], color=INK, linestyle="", marker="o", markersize=4, label="most active at the first token")
        legend(figure, [], others=[ring, dot])
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """How many are flagged, and how much more the strongest answers to the first token."""
        flagged = each_arm(arms, self.choice.number(np.sum, FLAGGED), ".3g")
        first, others = (
            each_arm(arms, self.choice.number(partial(_of_strongest, of), FLAGGED, FIRST, OTHERS), ".3g")
            for of in (FIRST, OTHERS)
        )
        return (
            "A super neuron stands above the cloud in both rows; without one the strongest is only the most active. "
            f"Flagged neurons, {self.choice.words}: {flagged}; mean activation of the strongest at the first token: "
            f"{first}; elsewhere: {others}."
        )


def _count(shown: Shown | None) -> str:
    return "" if shown is None else f", {int(shown.values[2].sum())} flagged"


def _of_strongest(array: str, flagged_F: np.ndarray, first_F: np.ndarray, others_F: np.ndarray) -> float:
    strongest = strongest_neuron(flagged_F, first_F, others_F)
    return float((first_F if array == FIRST else others_F)[strongest])


def _neurons(axes: Axes, arm: Arm, norm_F: np.ndarray, is_flagged_F: np.ndarray, strongest: int) -> None:
    """One norm of every neuron."""
    index = np.arange(len(norm_F))
    axes.scatter(index, norm_F, s=7, color=colour(arm), alpha=0.6, linewidths=0, rasterized=True, label=plain(arm.name))
    ring: dict[str, Any] = {"s": 44, "facecolors": "none", "edgecolors": INK, "linewidths": 1.1}
    axes.scatter(index[is_flagged_F], norm_F[is_flagged_F], label="_flagged", **ring)
    axes.scatter(strongest, norm_F[strongest], s=16, color=INK, linewidths=0, label="_strongest")
    mark_index(axes, strongest, norm_F)
    axes.margins(y=0.12)
    index_axis(axes)
