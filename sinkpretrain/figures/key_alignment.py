"""Whether a layer's heads are built to attend to the first key (2605.06611, Fig. 12)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed_at
from sinkpretrain.figures.base.layers import LayerChoice, columns, heading, index_axis
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, INK, colour, plain

ALIGNMENT, QUERIES, POSITIVE = (f"key_alignment/{array}" for array in ("alignment", "alignment_queries", "positive"))
ATTENTION = ("first_token_attention/normalised", "first_token_attention/uniform")


class KeyAlignment(Figure):
    """By head: cosine of the first key with the principal direction of W_Q's block, as in the paper, and of the queries
    themselves, beside the share of positive scores."""

    question = "Does the first key lie along the direction in which a head's queries point?"

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which layer is shown; null: in each run the one where first-token attention rises most over the one below."""

        layer: int | None = None

    def __init__(self, options: Options | None = None) -> None:
        layer = (options or self.Options()).layer
        rule = "layer where first-token attention rises most"
        self.choice = LayerChoice(layer=layer, rule=rule, needs=ATTENTION, pick=_rise)

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Bars of alignment, filled with W_Q and outlined with the queries; positive scores a line, chance dotted."""
        found = self.choice.of_each(arms, ALIGNMENT, QUERIES, POSITIVE)
        headings = [heading(arm, shown) for arm, shown in zip(arms, found, strict=True)]
        title = f"First key and query map by head, {self.choice.words},\n{probed_at(arms)}"
        figure, panels = columns(title, arms, headings, sharex=False)
        for axes, arm, shown in zip(panels[0], arms, found, strict=True):
            if shown is not None:
                _heads(axes, arm, *shown.values)
            axes.set_xlabel("head (index)")
        panels[0, 0].set_ylim(0, 1.05)
        panels[0, 0].set_ylabel("alignment; positive scores\n(fraction)")
        bars = Patch(color=GREY, alpha=0.5, label="alignment with W_Q, |cosine|")
        outlines = Patch(facecolor="none", edgecolor=GREY, linewidth=1.3, label="with the queries themselves")
        line = Line2D([], [], color=INK, marker="o", markersize=4, label="share of queries with q . k > 0")
        legend(figure, [], dotted="half of the queries", others=[bars, outlines, line])
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """Means over the heads of the layer."""
        alignment = each_arm(arms, self.choice.number(np.mean, ALIGNMENT), ".2f")
        queries = each_arm(arms, self.choice.number(np.mean, QUERIES), ".2f")
        positive = each_arm(arms, self.choice.number(np.mean, POSITIVE), ".0%")
        return (
            "Heads with high bars whose line is near 1 score the first key above zero whatever the query. Mean over "
            f"heads, {self.choice.words}: alignment with W_Q's direction {alignment}; with that of the queries "
            f"themselves {queries}; positive scores {positive}."
        )


def _rise(attention_LH: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """By how much each layer's first-token attention exceeds that of the layer below; the first, uniform attention."""
    return np.diff(attention_LH.mean(axis=1), prepend=float(uniform))


def _heads(axes: Axes, arm: Arm, alignment_H: np.ndarray, queries_H: np.ndarray, positive_H: np.ndarray) -> None:
    """The heads of one layer."""
    heads = np.arange(len(alignment_H))
    axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1.6, label="_reference")
    axes.bar(heads, alignment_H, color=colour(arm), alpha=0.55, width=0.75, label=plain(arm.name))
    axes.bar(heads, queries_H, color="none", edgecolor=colour(arm), linewidth=1.3, width=0.75, label="_queries")
    axes.plot(heads, positive_H, color=INK, linewidth=1.1, marker="o", markersize=3.5, label="_positive")
    index_axis(axes, most=6)
