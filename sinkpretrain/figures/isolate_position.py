"""A position that may attend only to itself becomes a sink: mask intervention (2605.06611, Figs. 5 and 19)."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, Point, each_arm
from sinkpretrain.figures.base.interventions import (
    band,
    curve,
    measured,
    places,
    positions,
    record_of,
    records_of_each,
    spread_note,
)
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, canvas, draw_arm, from_zero, plain
from sinkpretrain.records import UNTOUCHED
from sinkpretrain.runs import Run

NAME = "isolate_position"


class IsolatePosition(Figure):
    """Attention score received by position, rows divided by their sum; one panel a variant."""

    question = "Does a position whose values are not mixed with others become a sink like the first?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The isolated position's model solid, the untouched one dashed, the spread over seeds as a band."""
        records = records_of_each(arms, NAME)
        every = [record for of in records for record in of]
        title = f"Attention received with {positions(every)} isolated{places(every)}"
        figure, panels = canvas(title, columns=len(arms), height=4.2, sharex=True, sharey=True)
        for axes, arm, of in zip(panels[0], arms, records, strict=True):
            axes.set_title(plain(arm.name), loc="left")
            axes.set_xlabel("position (tokens before it)")
            for record in of[:1]:
                axes.axvline(record.position, color=GREY, linestyle=":", linewidth=1.6, label="_position", zorder=1)
            for condition in (UNTOUCHED, NAME):
                if value := measured(of, condition, "score_by_position"):
                    band(axes, arm, value)
                    draw_arm(axes, arm, [curve(value)], dashed=condition == UNTOUCHED)
        panels[0, 0].set_ylabel("attention score\n(weight received, rows sum to 1)")
        from_zero(*panels[0])
        legend(figure, arms, dashed="untouched", dotted="isolated position", others=spread_note(figure))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """What the isolated position receives, what it received before, and what the first one does."""
        records_of_each(arms, NAME)
        after, before, first = (
            each_arm(arms, score) for score in (_score(NAME), _score(UNTOUCHED), _score(UNTOUCHED, place=0))
        )
        return (
            "A peak at the dotted line as high as the first position is a second sink. Isolated position: "
            f"{after}; untouched: {before}; first position, untouched: {first}."
        )


def _score(condition: str, place: int | None = None) -> Callable[[Run], Point | None]:
    """What gives the score of the isolated position, or of another place, under a condition."""

    def score(run: Run) -> Point | None:
        record = record_of(run, NAME)
        value = measured([record], condition, "score_by_position") if record else None
        if record is None or value is None:
            return None
        return Point(0, float(np.asarray(value.mean)[record.position if place is None else place]))

    return score
