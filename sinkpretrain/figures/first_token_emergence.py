"""Mean attention to the first token over training."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, recorded, uniform_attention
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import baselines, canvas, draw_training, from_zero


class FirstTokenEmergence(Figure):
    """Mean over layers, heads and queries t >= 1 of the weight on the first token, against training."""

    question = "How fast does attention to the first token grow beyond what uniform attention gives?"
    over_training = True

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Raw weights solid, row-normalised weights dashed where they differ, uniform attention dotted."""
        figure, ((axes,),) = canvas("Attention to the first token, mean over layers and heads")
        raw, normalised = "first_token_attention/raw", "first_token_attention/normalised"
        dashed = draw_training(axes, arms, x, "sink/first_token_mean", raw=raw, dashed=normalised, log=True)
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
        """The last mean of each arm against the baseline."""
        uniform = "".join(f"; uniform attention gives {value:.3f}" for value in uniform_attention(arms))
        means = each_arm(arms, recorded("sink/first_token_mean"))
        return f"A sink is attention above the dotted line; last mean: {means}{uniform}."
