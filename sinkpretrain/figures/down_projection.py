"""Into how few channels a super neuron writes (2605.06611, Fig. 10)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed_at
from sinkpretrain.figures.base.layers import Shown, SuperNeuronFigure, columns, heading, index_axis, mark_index
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, INK, colour, from_zero, plain

NEURON, DOWN = "gate_similarity/neuron", "gate_similarity/down"
SHARE, KURTOSIS = "super_neurons/top3_share", "super_neurons/kurtosis"
TOP = 3  # as in super_neurons/top3_share


class DownProjection(SuperNeuronFigure):
    """|W_down| of one neuron by output channel, and the energy in its largest three; one column a variant."""

    question = "Does the super neuron write into a few channels only?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The column of the neuron whose gate and up norms stand out most; the largest three marked."""
        found = self.choice.of_each(arms, NEURON, DOWN, SHARE)
        headings = [heading(arm, shown, _share(shown)) for arm, shown in zip(arms, found, strict=True)]
        title = f"W_down column of one neuron, {self.choice.words},\n{probed_at(arms)}"
        figure, panels = columns(title, arms, headings, height=4.5)
        for axes, arm, shown in zip(panels[0], arms, found, strict=True):
            if shown is not None:
                _column(axes, arm, np.abs(shown.values[1]))
            axes.set_xlabel("channel (index)")
        from_zero(*panels[0])
        panels[0, 0].set_ylabel("|weight| in W_down (no unit)")
        largest = Line2D([], [], color=GREY, linestyle="", marker="o", markerfacecolor="none", label=f"largest {TOP}")
        legend(figure, [], others=[largest])
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """Share of the largest three and kurtosis, of the neuron and of the layer's median neuron."""
        share, median_share = (each_arm(arms, self.choice.number(of, NEURON, SHARE), ".1%") for of in (_own, _median))
        tails, median = (each_arm(arms, self.choice.number(of, NEURON, KURTOSIS), ".3g") for of in (_own, _median))
        return (
            f"A sparse column is flat but for a few peaks. Energy in the largest {TOP} channels, {self.choice.words}: "
            f"{share}; median neuron: {median_share}. Kurtosis (normal weights: 3): {tails}; median neuron: {median}."
        )


def _own(neuron: np.ndarray, value_F: np.ndarray) -> float:
    return float(value_F[int(neuron)])


def _median(neuron: np.ndarray, value_F: np.ndarray) -> float:
    return float(np.median(value_F))


def _share(shown: Shown | None) -> str:
    """The neuron, and the share of its largest channels beside the median neuron's."""
    if shown is None:
        return ""
    neuron, _, share_F = shown.values
    return f", neuron {int(neuron)}\ntop {TOP}: {_own(neuron, share_F):.0%} (median {_median(neuron, share_F):.0%})"


def _column(axes: Axes, arm: Arm, weight_C: np.ndarray) -> None:
    """One neuron's weights by channel."""
    axes.plot(weight_C, color=colour(arm), linewidth=0.9, label=plain(arm.name))
    top = np.argsort(weight_C)[-TOP:]
    axes.plot(top, weight_C[top], color=INK, linestyle="", marker="o", markerfacecolor="none", label="_largest")
    mark_index(axes, int(top[-1]), weight_C)
    index_axis(axes)
