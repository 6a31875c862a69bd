"""Dominance ratio of the first token by layer (2605.06611, Figs. 11 and 14)."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed, probed_at
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import canvas, draw_layers, from_zero


class DominanceRatio(Figure):
    """Largest over mean absolute channel of the residual stream at the first token, after each layer."""

    question = "Is the first token's representation carried by a few outlier channels?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The first token solid, the mean of the other positions dashed."""
        figure, ((axes,),) = canvas(f"Dominance ratio of the first token, {probed_at(arms)}")
        dashed = draw_layers(axes, arms, "dominance_ratio/first", "dominance_ratio/others")
        axes.set_ylabel("largest / mean channel (ratio of |h|)")
        from_zero(axes)
        legend(figure, arms, dashed="other positions" if dashed else "")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The layer mean of each arm."""
        ratios = each_arm(arms, probed("dominance_ratio/first"), ".1f")
        return f"Outlier channels lift the solid line above the dashed one: first token, mean over layers: {ratios}."
