"""Whether W_O reads the dimensions in which the first token varies (2605.06611, Fig. 7 left)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed, probed_at
from sinkpretrain.figures.base.layers import HEADING, LayerChoice, Shown, heading
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, canvas, colour, from_zero, plain

TAU, MEAN = "output_alignment/tau", "output_alignment/mean"
BIN = 0.02
EDGES = np.linspace(-1, 1, round(2 / BIN) + 1)


class OutputAlignment(Figure):
    """Distribution over output channels of the rank correlation of |W_O[i, :]| with token 0's variance, by variant."""

    question = "Are W_O's weights large in those dimensions in which the first token's mixed values vary?"

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which layer is shown; null: in each run the one with the largest mean."""

        layer: int | None = None

    def __init__(self, options: Options | None = None) -> None:
        layer = (options or self.Options()).layer
        rule = "layer with the largest mean"
        self.choice = LayerChoice(layer=layer, rule=rule, needs=(MEAN,), pick=lambda mean_L: mean_L)

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """One row a variant on one scale, the mean dashed, no alignment dotted."""
        found = self.choice.of_each(arms, TAU)
        title = f"Alignment of W_O with the first token's variance, {self.choice.words},\n{probed_at(arms)}"
        figure, panels = canvas(title, rows=len(arms), height=1.7 + 1.25 * len(arms), sharex=True, sharey=True)
        for axes, arm, shown in zip(panels[:, 0], arms, found, strict=True):
            axes.set_title(_heading(arm, shown), loc="left", fontsize=HEADING)
            axes.axvline(0, color=GREY, linestyle=":", linewidth=1.6, label="_reference")
            axes.set_ylabel("channels (%)")
            if shown is not None:
                _histogram(axes, arm, shown.values[0])
        drawn = np.concatenate([shown.values[0] for shown in found if shown is not None])
        furthest = float(np.max(np.abs(drawn), initial=0.1, where=np.isfinite(drawn)))
        panels[0, 0].set_xlim(-furthest - 2 * BIN, furthest + 2 * BIN)
        from_zero(*panels[:, 0])
        panels[-1, 0].set_xlabel("Kendall's tau of an output channel (rank correlation, -1 to 1)")
        legend(figure, [], dashed="mean over channels", dotted="no alignment")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The mean over channels in the layer shown, and over all layers."""
        shown = each_arm(arms, self.choice.number(np.mean, TAU))
        everywhere = each_arm(arms, probed(MEAN))
        return (
            "Where W_O favours the dimensions in which the first token varies, the distribution lies to the right of "
            f"zero; mean tau, {self.choice.words}: {shown}; over all layers: {everywhere}."
        )


def _heading(arm: Arm, shown: Shown | None) -> str:
    """The variant, its layer and the mean, in one line."""
    mean = "" if shown is None else f", mean {shown.values[0].mean():.3f}"
    return heading(arm, shown, mean).replace("\n", ", ")


def _histogram(axes: Axes, arm: Arm, tau_C: np.ndarray) -> None:
    """The share of channels in each bin, and their mean."""
    percent = 100 * np.histogram(tau_C[np.isfinite(tau_C)], EDGES)[0] / len(tau_C)
    axes.stairs(percent, EDGES, fill=True, color=colour(arm), alpha=0.35, label="_filled")
    axes.stairs(percent, EDGES, edgecolor=colour(arm), linewidth=1.2, label=plain(arm.name))
    axes.axvline(tau_C.mean(), color=colour(arm), linestyle=(0, (4, 2)), linewidth=1.5, label="_mean")
