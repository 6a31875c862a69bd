"""The data of the curves that a reader can hover and switch.

A mean is taken at the steps that all seeds of an arm have, as in the figures; a band goes from the lowest seed to the
highest, and is not an interval for the mean.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sinkpretrain.figures.base.arms import Arm, Axis, arms_of, config_of
from sinkpretrain.figures.base.figure import DARK
from sinkpretrain.figures.base.style import AXIS_LABELS, COLOURS, GREY, GRID, INK, MARKERS, PAPER
from sinkpretrain.report.scope import Scope
from sinkpretrain.report.states import diverged
from sinkpretrain.report.tables import label

MOST_POINTS = 1000  # of one curve; more cannot be told apart on a screen
ALL_POINTS = 60_000  # of all curves together, 2 MB of the page
FEWEST_POINTS = 60
AXES: tuple[Axis, ...] = ("tokens", "step", "seconds")
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "*": "star",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A metric of metrics.jsonl as a chart shows it."""

    metric: str
    name: str
    unit: str = ""
    from_zero: bool = False
    figure: str = ""  # the static figure that shows the same


# A chart each, with what its reader can choose.
CHARTS: dict[str, tuple[Quantity, ...]] = {
    "Loss": (
        Quantity(metric="val/loss", name="validation loss", unit="nats a token", figure="validation_loss"),
        Quantity(metric="train/loss", name="training loss", unit="nats a token", figure="train_loss"),
    ),
    "Sinks, dominance and rank": (
        Quantity(metric="sink/rate_normalised", name="sink rate, rows divided by their sum", from_zero=True),
        Quantity(metric="sink/rate", name="sink rate", from_zero=True),
        Quantity(
            metric="sink/first_token_mean_normalised",
            name="first-token attention, rows divided by their sum",
            from_zero=True,
        ),
        Quantity(metric="sink/first_token_mean", name="first-token attention", from_zero=True),
        Quantity(metric="activation/dominance_mean", name="dominance ratio", from_zero=True),
        Quantity(metric="activation/neuron_peak_ratio", name="largest neuron, first token over the others"),
        Quantity(metric="rank/effective_mean", name="effective rank"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One run's record of a metric: steps, its place on each axis by step, and values."""

    step: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    value: np.ndarray


def curves(scope: Scope) -> dict[str, Any] | None:
    """What the page's script draws: charts with the quantities that were recorded, and arms with their runs' curves.

    None where nothing was recorded.
    """
    metrics = [quantity.metric for quantities in CHARTS.values() for quantity in quantities]
    recorded: dict[Path, dict[str, Series]] = {run.root: _series(run.metrics(), metrics) for run in scope.trained}
    found = {metric for of in recorded.values() for metric in of}
    if not found:
        return None
    count = sum(len(of) for of in recorded.values()) + len(found) * len(scope.trained)
    most = int(np.clip(ALL_POINTS // count, FEWEST_POINTS, MOST_POINTS))
    charts = {
        name: [
            {"metric": one.metric, "name": one.name, "unit": one.unit, "fromZero": one.from_zero, "figure": one.figure}
            for one in quantities
            if one.metric in found
        ]
        for name, quantities in CHARTS.items()
    }
    themes = {
        "light": {"ink": INK, "soft": GREY, "line": GRID, "paper": PAPER},
        "dark": {"ink": DARK[INK], "soft": DARK[GREY], "line": DARK[GRID], "paper": DARK[PAPER]},
    }
    return {
        "axes": {axis: AXIS_LABELS[axis] for axis in AXES},
        "charts": [{"name": name, "quantities": of} for name, of in charts.items() if of],
        "themes": themes,
        "arms": [_arm(scope, arm, look, recorded, most) for arm, look in _looks(scope, arms_of(scope.trained))],
    }


def _looks(scope: Scope, arms: Sequence[Arm]) -> list[tuple[Arm, dict[str, Any]]]:
    """How each arm is drawn: as in the figures, where an arm is a variant; dashed at learning rates not chosen."""
    variants = list(dict.fromkeys(config_of(arm.runs[0]).variant for arm in arms))
    looks = []
    solid = {config_of(arm.runs[0]).variant for arm in arms if scope.at_chosen_rate(arm.runs[0])}
    seen = {variant: int(variant in solid) for variant in variants}
    for arm in arms:
        variant = config_of(arm.runs[0]).variant
        place, rate = (variants.index(variant), seen[variant]) if len(variants) > 1 else (arm.place, 0)
        if scope.at_chosen_rate(arm.runs[0]):
            rate = 0
        else:
            seen[variant] += 1
        light = COLOURS[place % len(COLOURS)]
        look = {
            "light": light,
            "dark": DARK.get(light, light),
            "symbol": SYMBOLS[MARKERS[place % len(MARKERS)]],
            "dash": DASHES[rate % len(DASHES)],
        }
        looks.append((arm, look))
    return looks


def _arm(
    scope: Scope, arm: Arm, look: dict[str, Any], recorded: dict[Path, dict[str, Series]], most: int
) -> dict[str, Any]:
    """An arm with the thinned curves of its runs and of their mean."""
    runs = []
    for run in arm.runs:
        of = {metric: _columns(one, most) for metric, one in recorded[run.root].items()}
        left = diverged(scope, run)
        state = "diverged" if left else str(run.status().get("state", ""))
        note = "" if state == "done" else state
        runs.append({"name": label(run), "seed": config_of(run).seed, "note": note, "diverged": left, "curves": of})
    metrics = dict.fromkeys(metric for run in arm.runs for metric in recorded[run.root])
    means = {}
    for metric in metrics:
        seeds = [recorded[run.root][metric] for run in arm.runs if metric in recorded[run.root]]
        if len(seeds) > 1:
            means[metric] = _mean(seeds, most)
    chosen = scope.at_chosen_rate(arm.runs[0])
    name = f"{arm.name} (chosen)" if chosen else arm.name
    return {"name": name, "hidden": chosen is False, **look, "runs": runs, "means": means}


def _series(rows: Sequence[dict[str, float]], metrics: Collection[str]) -> dict[str, Series]:
    """Each of these metrics that was recorded."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        at = [row.get(axis, np.nan) for axis in AXES]
        for metric in row.keys() & set(metrics):
            found.setdefault(metric, []).append([*at, row[metric]])
    columns = {metric: np.array(found[metric], dtype=np.float64).T for metric in metrics if metric in found}
    return {
        metric: Series(tokens=tokens, step=step, seconds=seconds, value=value)
        for metric, (tokens, step, seconds, value) in columns.items()
    }


def _columns(series: Series, most: int, **more: np.ndarray) -> dict[str, list[float | None]]:
    """Lists of numbers for JSON at `most` points, the first and the last among them."""
    kept = thinned(len(series.step), most)
    arrays = {"step": series.step, "tokens": series.tokens, "seconds": series.seconds, "value": series.value, **more}
    return {name: [_number(value) for value in array[kept]] for name, array in arrays.items()}


def _mean(seeds: Sequence[Series], most: int) -> dict[str, Any]:
    """The mean over seeds at the steps that all of them have, and the lowest and highest of them there."""
    steps = seeds[0].step
    for one in seeds[1:]:
        steps = np.intersect1d(steps, one.step)
    at = [np.isin(one.step, steps) for one in seeds]
    values = np.array([one.value[chosen] for one, chosen in zip(seeds, at, strict=True)])
    seconds = np.mean([one.seconds[chosen] for one, chosen in zip(seeds, at, strict=True)], axis=0)
    tokens = np.mean([one.tokens[chosen] for one, chosen in zip(seeds, at, strict=True)], axis=0)
    mean = Series(step=steps, tokens=tokens, seconds=seconds, value=values.mean(axis=0))
    return {**_columns(mean, most, low=values.min(axis=0), high=values.max(axis=0)), "seeds": len(seeds)}


def thinned(count: int, most: int) -> np.ndarray:
    """Which of `count` points to keep: at most `most`, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _number(value: float) -> float | None:
    """A number as it is written in JSON, in seven digits; None for what is none, since JSON has no name for that."""
    if not np.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else float(f"{value:.7g}")
