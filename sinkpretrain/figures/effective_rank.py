"""Effective rank of the hidden states by layer (2605.06611, Figs. 15 and 21)."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed, probed_at
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import canvas, draw_layers, from_zero


class EffectiveRank(Figure):
    """Effective rank (Roy and Vetterli 2007) of the residual stream after each layer."""

    question = "How many directions do the hidden states use, and does the first token alone flatten them?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """All tokens, uncentred, solid; without the first token dashed where that changes it."""
        figure, ((axes,),) = canvas(f"Effective rank of the residual stream, {probed_at(arms)}")
        dashed = draw_layers(axes, arms, "effective_rank/all", "effective_rank/without_first")
        axes.set_ylabel("effective rank (directions)")
        from_zero(axes)
        legend(figure, arms, dashed="without the first token" if dashed else "")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The layer mean of each arm."""
        ranks = each_arm(arms, probed("effective_rank/all"), ".1f")
        return f"A drop that the dashed line does not share is the first token's doing: mean over layers: {ranks}."
