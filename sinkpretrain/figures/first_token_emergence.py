"""Mean attention to the first token over training."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, recorded, series_curves, uniform_attention
from sinkpretrain.figures.base.attention import attention_panels
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import baselines, draw_training

NORMALISED, RAW = "sink/first_token_mean_normalised", "sink/first_token_mean"


class FirstTokenEmergence(Figure):
    """Mean over layers, heads and queries t >= 1 of the weight on the first token, against training."""

    question = "How fast does attention to the first token grow beyond what uniform attention gives?"
    over_training = True

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Row-normalised weights with uniform attention dotted; raw weights beside them where they differ."""

        def draw(axes: Axes, name: str) -> None:
            draw_training(axes, arms, x, name, log=True)

        title = "Attention to the first token, mean over layers and heads"
        figure, panels = attention_panels(title, arms, (NORMALISED, RAW), partial(series_curves, x=x), draw)
        uniform = uniform_attention(arms)
        baselines(panels[0], uniform)
        panels[0].set_ylabel("first-token attention (weight)")
        legend(figure, arms, dotted="uniform attention" if uniform else "")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The last mean of each arm against the baseline."""
        uniform = "".join(f"; uniform attention gives {value:.3f}" for value in uniform_attention(arms))
        means = each_arm(arms, recorded(NORMALISED))
        return f"A sink is attention above the dotted line; last mean: {means}{uniform}."
