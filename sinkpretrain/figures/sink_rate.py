"""Sink rate over training (the metric of 2410.10781)."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed, recorded, series_curves
from sinkpretrain.figures.base.attention import attention_panels
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import draw_training

NORMALISED, RAW = "sink/rate_normalised", "sink/rate"


class SinkRate(Figure):
    """Share of (sequence, layer, head) whose first token scores above 0.3, against training."""

    question = "When in training does the sink appear, and in which designs does it not?"
    over_training = True

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Row-normalised weights; raw weights beside them where they differ."""

        def draw(axes: Axes, name: str) -> None:
            draw_training(axes, arms, x, name, log=True)

        title = "Sink rate at the first token"
        figure, panels = attention_panels(title, arms, (NORMALISED, RAW), partial(series_curves, x=x), draw)
        panels[0].set_ylabel("sink rate (share of sequences,\nlayers and heads)")
        for axes in panels:
            axes.set_ylim(-0.02 * axes.get_ylim()[1], None)  # room for marks at zero
        legend(figure, arms)
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The last rate of each arm, and the largest at any other position where that is recorded."""
        rates = each_arm(arms, recorded(NORMALISED))
        elsewhere = probed("sink_rate/others_max")
        moved = ""
        if any(elsewhere(run) for arm in arms for run in arm.runs):
            moved = f"; raw weights at the strongest other position, where a sink may move: {each_arm(arms, elsewhere)}"
        return f"A sink has formed where the curve leaves zero; last rate: {rates}{moved}."
