"""Attention to the first token by layer (2605.06611, Fig. 2)."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, layer_curves, probed, probed_at, uniform_attention
from sinkpretrain.figures.base.attention import attention_panels
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import baselines, draw_layers

NORMALISED, RAW = "first_token_attention/normalised", "first_token_attention/raw"


class FirstTokenAttention(Figure):
    """Mean over heads and queries t >= 1 of the weight on the first token, by layer."""

    question = "In which layers does the first token draw more attention than uniform weights would give it?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Row-normalised weights with uniform attention dotted; raw weights beside them where they differ."""

        def draw(axes: Axes, name: str) -> None:
            draw_layers(axes, arms, name)

        title = f"Attention to the first token, {probed_at(arms)}"
        figure, panels = attention_panels(title, arms, (NORMALISED, RAW), layer_curves, draw)
        uniform = uniform_attention(arms)
        baselines(panels[0], uniform)
        panels[0].set_ylabel("first-token attention (weight)")
        legend(figure, arms, dotted="uniform attention" if uniform else "")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The layer with the most attention, for each arm."""
        uniform = "".join(f"; uniform attention gives {value:.3f}" for value in uniform_attention(arms))
        highest = each_arm(arms, probed(NORMALISED, lambda weights_LH: weights_LH.mean(axis=1).max()))
        return f"A sink layer stands above the dotted line; highest layer mean: {highest}{uniform}."
