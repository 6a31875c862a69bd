"""Sink rate over training (the metric of 2410.10781)."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed, recorded
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import canvas, draw_training


class SinkRate(Figure):
    """Share of (sequence, layer, head) whose first token scores above 0.3, against training."""

    question = "When in training does the sink appear, and in which designs does it not?"
    over_training = True

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Raw weights solid, row-normalised weights dashed where they say something else."""
        figure, ((axes,),) = canvas("Sink rate at the first token")
        raw, normalised = "sink_rate/first", "sink_rate/first_normalised"
        dashed = draw_training(axes, arms, x, "sink/rate", raw=raw, dashed=normalised, log=True)
        axes.set_ylabel("sink rate (share of sequences,\nlayers and heads)")
        axes.set_ylim(-0.02, None)
        legend(figure, arms, dashed="rows divided by their sum" if dashed else "")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The last rate of each arm, and the largest at any other position where that is recorded."""
        rates = each_arm(arms, recorded("sink/rate"))
        elsewhere = probed("sink_rate/others_max")
        moved = ""
        if any(elsewhere(run) for arm in arms for run in arm.runs):
            moved = f"; at the strongest other position, where a sink may move to: {each_arm(arms, elsewhere)}"
        return f"A sink has formed where the curve leaves zero; last rate: {rates}{moved}."
