"""Which positions a super neuron answers to (2605.06611, Fig. 9)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed_at
from sinkpretrain.figures.base.layers import Shown, SuperNeuronFigure, columns, heading
from sinkpretrain.figures.base.style import GREY, colour, log_axis, plain

NEURON = "gate_similarity/neuron"
ROWS = ("gate_similarity/gate_cosine", "gate_similarity/up")


class GateSimilarity(SuperNeuronFigure):
    """Above, cosine of the feed-forward input with the neuron's row of W_gate; below, its W_up pre-activation."""

    question = "Does the first token alone meet the super neuron's gate and drive its up projection?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """By position, mean over sequences, of the neuron whose gate and up norms stand out most."""
        found = self.choice.of_each(arms, NEURON, *ROWS)
        headings = [heading(arm, shown, _neuron(shown)) for arm, shown in zip(arms, found, strict=True)]
        title = f"Activation of one neuron by position, {self.choice.words},\n{probed_at(arms)}"
        figure, panels = columns(title, arms, headings, rows=2, height=5.6, sharex=True)
        for column, arm, shown in zip(panels.T, arms, found, strict=True):
            for axes, value_T in zip(column, shown.values[1:] if shown else (), strict=False):
                axes.axhline(0, color=GREY, linewidth=0.8, label="_zero")
                seen = np.arange(1, len(value_T) + 1)
                look: dict[str, Any] = {"linewidth": 1.4, "marker": "o", "markersize": 5, "markevery": [0]}
                axes.plot(seen, value_T, color=colour(arm), label=plain(arm.name), **look)
            column[-1].set_xlabel("t + 1 (tokens)")
        log_axis(panels[0, 0], "x")
        panels[0, 0].set_ylabel("input and W_gate row\n(cosine)")
        panels[1, 0].set_ylabel("input times W_up row\n(activation)")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """Cosine and pre-activation at the first position, beside the mean of the others."""
        first, others = (each_arm(arms, self.choice.number(of, ROWS[0]), ".2g") for of in (_first, _others))
        up_first, up_others = (each_arm(arms, self.choice.number(of, ROWS[1]), ".3g") for of in (_first, _others))
        return (
            "A super neuron of the mechanism has a peak in both rows at t + 1 = 1 and is near zero after it. Cosine "
            f"with W_gate, {self.choice.words}: {first}; mean of the later positions: {others}. W_up pre-activation: "
            f"{up_first}; later: {up_others}."
        )


def _neuron(shown: Shown | None) -> str:
    return "" if shown is None else f", neuron {int(shown.values[0])}"


def _first(value_T: np.ndarray) -> float:
    return float(value_T[0])


def _others(value_T: np.ndarray) -> float:
    return float(value_T[1:].mean())
