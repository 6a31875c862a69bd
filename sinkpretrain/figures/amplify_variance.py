"""Attention received against the amplification of a position's variance, with controls (2605.06611, Figs. 6 and 20)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, Curve, Point, each_arm
from sinkpretrain.figures.base.interventions import (
    SPREAD,
    Record,
    measured,
    places,
    positions,
    record_of,
    records_of_each,
    spread_note,
    strengths,
)
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, canvas, colour, draw_arm, from_zero, log_axis, plain
from sinkpretrain.records import UNTOUCHED
from sinkpretrain.runs import Run

NAME, SCALED, RANDOM = "amplify_variance", "scale_norm", "random_direction"
MOST_TICKS = 6  # factors that are all named on their axis
WIDE = 8  # largest over smallest lambda from where on their axis is logarithmic


class AmplifyVariance(Figure):
    """Score of the position, rows divided by their sum, against lambda; one panel a variant."""

    question = "Does a larger variance make a position a sink, where a larger norm does not?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The amplified variance solid, the controls dashed and dash-dotted, the untouched value dotted."""
        records = records_of_each(arms, NAME)
        every = [record for of in records for record in of]
        title = f"Attention received by {positions(every)}, amplified{places(every)}"
        figure, panels = canvas(title, columns=len(arms), height=4.2, sharex=True, sharey=True)
        for axes, arm, of in zip(panels[0], arms, records, strict=True):
            axes.set_title(plain(arm.name), loc="left")
            axes.set_xlabel("\N{GREEK SMALL LETTER LAMDA} (factor)")
            _panel(axes, arm, of)
        panels[0, 0].set_ylabel("attention score of the position\n(weight received, rows sum to 1)")
        from_zero(*panels[0])
        factors = sorted({factor for condition in (NAME, SCALED, RANDOM) for factor in _factors(every, condition)})
        if min(factors) > 0 and max(factors) >= WIDE * min(factors):
            log_axis(panels[0, 0], "x")
        if len(factors) <= MOST_TICKS:
            panels[0, 0].set_xticks(factors)
        note = spread_note(figure, bars=True)
        legend(figure, arms, dashed="norm scaled", dash_dotted="random direction", dotted="untouched", others=note)
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The score at the largest lambda, of the controls there, and untouched."""
        records_of_each(arms, NAME)
        texts = [
            f"{words} {each_arm(arms, _largest(condition))}"
            for condition, words in ((NAME, "amplified"), (SCALED, "norm scaled"), (RANDOM, "random direction"))
            if any(_largest(condition)(run) for arm in arms for run in arm.runs)
        ]
        return (
            "Variance is the cause where the solid line rises and the controls stay at the dotted one. Score of the "
            f"position at the largest factor: {'; '.join(texts)}; untouched {each_arm(arms, _largest(UNTOUCHED))}."
        )


def _factors(records: Sequence[Record], condition: str) -> list[float]:
    """Lambda of each strength: a random direction of strength s is as long as the change by lambda = 1 + s."""
    return [strength + (condition == RANDOM) for strength in strengths(records, condition)]


def _panel(axes: Axes, arm: Arm, records: Sequence[Record]) -> None:
    """One variant's lines, with the spread over seeds as error bars."""
    if untouched := measured(records, UNTOUCHED, "received"):
        axes.axhline(float(untouched.mean), color=GREY, linestyle=":", linewidth=1.6, label="_uniform")
    for condition in (RANDOM, SCALED, NAME):
        at = strengths(records, condition)
        values = [value for strength in at if (value := measured(records, condition, "received", strength))]
        if not values:
            continue
        factors = np.array(_factors(records, condition))
        means, spreads = (np.array([part[place] for part in values], dtype=np.float64) for place in (0, 1))
        bars: dict[str, Any] = {"color": colour(arm), "fmt": "none", "elinewidth": 1.0, "capsize": 2.5}
        if values[0].seeds > 1:
            axes.errorbar(factors, means, yerr=spreads, label=SPREAD, **bars)
        if condition == RANDOM:
            axes.plot(factors, means, color=colour(arm), linestyle="-.", linewidth=1.3, label=f"_control {arm.name}")
        else:
            draw_arm(axes, arm, [Curve(factors, factors, means)], dashed=condition == SCALED)


def _largest(condition: str) -> Callable[[Run], Point | None]:
    """What gives the score of the position under a condition, at its largest strength."""

    def received(run: Run) -> Point | None:
        record = record_of(run, NAME)
        value = measured([record], condition, "received") if record else None
        return None if value is None else Point(0, float(value.mean))

    return received
