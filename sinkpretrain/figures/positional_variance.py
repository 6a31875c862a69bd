"""Variance by position over random tokens: the first link of the chain (2605.06611, Figs. 7 right and 23)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import (
    Arm,
    Axis,
    Curve,
    Point,
    differ,
    each_arm,
    furthest,
    mean_curve,
    no_record,
    probed_at,
)
from sinkpretrain.figures.base.layers import layer_of
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, canvas, draw_arm, log_axis, plain
from sinkpretrain.runs import Run

# What is plotted in each row: the array, its discrepancy, and where it is measured.
ROWS = (
    ("positional_variance/mixed", "positional_variance/discrepancy", "mixed values"),
    ("positional_variance/attn_out", "positional_variance/discrepancy_attn_out", "after W_O"),
)
FIRST, LAST = 0, -1  # places in a run's list of probes
PANEL_TITLE = 9.0  # points: three panels beside each other hold a ratio and what it was


class PositionalVariance(Figure):
    """Variance of the mixed values and of what W_O adds to the residual stream, by position; one column a variant."""

    question = "Does mixing values leave the first token an outlier in variance that reaches the residual stream?"

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which layer is shown; null: the mean over layers."""

        layer: int | None = 0

    def __init__(self, options: Options | None = None) -> None:
        self.layer = (options or self.Options()).layer

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The last probe solid, the first one dashed, on logarithmic axes, beside the decay of a uniform average."""
        which = "mean over layers" if self.layer is None else f"layer {self.layer}"
        if not any(self._curves(arm, array, LAST) for arm in arms for array, _, _ in ROWS):
            raise no_record(arms, f"probe record '{ROWS[0][0]}'")
        title = f"Variance by position on random tokens, {which}, {probed_at(arms)}"
        figure, panels = canvas(title, rows=2, columns=len(arms), height=5.6, sharex=True, sharey="row")
        any_earlier = False
        for row, (array, discrepancy, where) in zip(panels, ROWS, strict=True):
            row[0].set_ylabel(f"variance, {where}\n(squared activation)")
            for axes, arm in zip(row, arms, strict=True):
                axes.set_title(self._ratio(arm, discrepancy), loc="left", fontsize=PANEL_TITLE)
                any_earlier |= self._panel(axes, arm, array)
            log_axis(row[0], "y")
        for axes, arm in zip(panels[0], arms, strict=True):
            axes.set_title(f"{plain(arm.name)}\n{axes.get_title(loc='left')}", loc="left", fontsize=PANEL_TITLE)
        log_axis(panels[0, 0], "x")
        for axes in panels[1]:
            axes.set_xlabel("t + 1 (tokens)")
        legend(figure, arms, dashed="first probe" if any_earlier else "", dotted="decay as 1 / (t + 1)")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The discrepancy after W_O of each arm."""
        ratios = each_arm(arms, self._last_ratio, ".3g")
        return (
            "A curve that falls like the dotted line leaves the first token an outlier; the lower row is what reaches "
            f"the residual stream: variance at the first position over that of the later half: {ratios}."
        )

    def _panel(self, axes: Axes, arm: Arm, array: str) -> bool:
        """One arm's curves; returns whether an earlier probe is among them."""
        last, first = self._curves(arm, array, LAST), self._curves(arm, array, FIRST)
        if not last:
            return False
        _, seen, variance = mean_curve(last)
        axes.plot(seen, variance[0] / seen, color=GREY, linestyle=":", linewidth=1.6, label="_reference")
        if differ(last, first):
            draw_arm(axes, arm, first, dashed=True)
        draw_arm(axes, arm, last)
        return differ(last, first)

    def _curves(self, arm: Arm, array: str, place: int) -> list[Curve]:
        """Variance against t + 1, the number of tokens mixed: position 0 has a place on a logarithmic axis."""
        found = []
        for variance in (self._at_layer(run, array, place) for run in furthest(arm)):
            if variance is not None:
                positions = np.arange(len(variance))
                found.append(Curve(positions, positions + 1, variance))
        return found

    def _ratio(self, arm: Arm, discrepancy: str) -> str:
        """The discrepancy now and at the first probe, in the words of a panel's title."""
        then, now = (
            [float(value) for run in furthest(arm) if (value := self._at_layer(run, discrepancy, place)) is not None]
            for place in (FIRST, LAST)
        )
        if not now:
            return "no record"
        last, first = _brief(now), _brief(then) if then else ""
        return f"first / late: {last}" + (f" (was {first})" if first not in ("", last) else "")

    def _last_ratio(self, run: Run) -> Point | None:
        """The discrepancy after W_O at a run's last probe."""
        value = self._at_layer(run, ROWS[1][1], LAST)
        return None if value is None else Point(run.probe_steps()[-1], float(value))

    def _at_layer(self, run: Run, array: str, place: int) -> Any:
        """The chosen layer (or the mean over layers) of an array at a run's first or last probe; None where missing."""
        steps = run.probe_steps()
        record = run.probe(steps[place]) if steps else {}
        if array not in record:
            return None
        value_LT = record[array].astype(np.float64)
        if self.layer is None:
            return value_LT.mean(axis=0)
        return layer_of(value_LT, self.layer, run)


def _brief(ratios: Sequence[float]) -> str:
    """The mean in few characters."""
    mean = float(np.mean(ratios))
    return f"{mean:.3g}" if mean >= 1 else f"{mean:.2g}"
