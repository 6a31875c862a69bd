"""Attention to the first token by layer (2605.06611, Fig. 2)."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed, probed_at, uniform_attention
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import baselines, canvas, draw_layers, from_zero


class FirstTokenAttention(Figure):
    """Mean over heads and queries t >= 1 of the weight on the first token, by layer."""

    question = "In which layers does the first token draw more attention than uniform weights would give it?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Raw weights solid, row-normalised weights dashed where they differ, uniform attention dotted."""
        figure, ((axes,),) = canvas(f"Attention to the first token, {probed_at(arms)}")
        dashed = draw_layers(axes, arms, "first_token_attention/raw", "first_token_attention/normalised")
        uniform = uniform_attention(arms)
        baselines(axes, uniform)
        axes.set_ylabel("first-token attention (raw weight)")
        from_zero(axes)
        legend(
            figure,
            arms,
            dashed="rows divided by their sum" if dashed else "",
            dotted="uniform attention" if uniform else "",
        )
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The layer with the most attention, for each arm."""
        uniform = "".join(f"; uniform attention gives {value:.3f}" for value in uniform_attention(arms))
        highest = each_arm(arms, probed("first_token_attention/raw", lambda raw_LH: raw_LH.mean(axis=1).max()))
        return f"A sink layer stands above the dotted line; highest layer mean: {highest}{uniform}."
