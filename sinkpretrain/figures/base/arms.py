"""Runs grouped into arms (a variant with all its seeds), and the curves they recorded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sinkpretrain.config import Config
from sinkpretrain.errors import DataError
from sinkpretrain.records import read_arrays
from sinkpretrain.runs import Run

Axis = Literal["tokens", "step", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A variant at one learning rate, its runs (seeds), and its place among the arms, which decides how it is drawn."""

    name: str
    runs: tuple[Run, ...]
    place: int


class Curve(NamedTuple):
    """One run's record; `keys` (step, layer or position) say which points of several seeds belong together."""

    keys: np.ndarray
    x: np.ndarray
    y: np.ndarray


class Point(NamedTuple):
    """A run's last record of one number."""

    step: int
    value: float


def config_of(run: Run) -> Config:
    """A run's configuration, parsed once: YAML takes longer than drawing, and the file changes with its time."""
    return _config(run.config_path.resolve(), run.config_path.stat().st_mtime_ns)


@cache
def _config(path: Path, changed_ns: int) -> Config:
    return Run(path.parent).config()


def arms_of(runs: Sequence[Run], *, by_rate: bool = True) -> list[Arm]:
    """The runs grouped by variant, in the order in which variants first appear.

    Where a variant was trained at several learning rates each of them is an arm of its own, since runs that differ in
    more than the seed have no mean; without `by_rate` they are one arm.

    Raises:
        DataError: no runs.
    """
    if not runs:
        raise DataError("no runs were given; a figure needs at least one run folder")
    rates: dict[str, set[float]] = {}
    for run in runs:
        rates.setdefault(config_of(run).variant, set()).add(config_of(run).optimizer.learning_rate)
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        variant, rate = config_of(run).variant, config_of(run).optimizer.learning_rate
        grouped.setdefault(
            variant if len(rates[variant]) == 1 or not by_rate else f"{variant}, lr {rate:g}", []
        ).append(run)
    return [Arm(name=name, runs=tuple(of), place=place) for place, (name, of) in enumerate(grouped.items())]


class MissingRecord(DataError):
    """None of the runs recorded `what` a figure is drawn from; `remedy` is what makes the record."""

    def __init__(self, arms: Iterable[Arm], what: str, remedy: str) -> None:
        names = ", ".join(run.name for arm in arms for run in arm.runs)
        super().__init__(f"{what}: not recorded by {names}; {remedy}")
        self.what, self.remedy = what, remedy


def no_record(arms: Iterable[Arm], what: str) -> MissingRecord:
    """The error for runs of which none recorded `what`: a metric over training, or something of a probe."""
    if what.startswith("metric "):
        return MissingRecord(arms, what, "train further, with probes where it is theirs")
    return MissingRecord(arms, what, "measure it with sinkpretrain probe RUN, or name its metric in probes.metrics")


def series_curves(arm: Arm, metric: str, x: Axis) -> list[Curve]:
    """A metric of metrics.jsonl over training, for each seed that has it."""
    found = []
    for run in arm.runs:
        rows = [[row["step"], row[x], row[metric]] for row in run.metrics() if metric in row and x in row]
        if rows:
            found.append(Curve(*np.array(rows, dtype=np.float64).T))
    return found


def last_probe(run: Run, array: str) -> np.ndarray | None:
    """An array of a run's last probe record, in float64; None where there is none."""
    steps = run.probe_steps()
    if not steps:
        return None
    record = read_arrays(run.probe_path(steps[-1]), f"sinkpretrain probe {run.root}", [array])
    return _numbers(record[array], run.probe_path(steps[-1]), array) if array in record else None


def _numbers(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    try:
        return np.asarray(array, dtype=np.float64)
    except ValueError:
        raise DataError(f"{path}: {name} does not hold numbers; the record was altered") from None


def furthest(arm: Arm) -> list[Run]:
    """The seeds whose last probe is at the arm's last probed step: only these can be averaged."""
    last = max((steps[-1] for run in arm.runs if (steps := run.probe_steps())), default=None)
    return [run for run in arm.runs if last is not None and run.probe_steps()[-1:] == [last]]


def layer_curves(arm: Arm, array: str) -> list[Curve]:
    """A probe array by layer at the arm's last probed step; a [layer, head] array as its mean over heads."""
    found = []
    for value in (last_probe(run, array) for run in furthest(arm)):
        if value is not None:
            layers = np.arange(len(value))
            found.append(Curve(layers, layers, value.reshape(len(value), -1).mean(axis=1)))
    return found


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds, at the keys that all of them have."""
    keys = curves[0].keys
    for curve in curves[1:]:
        keys = np.intersect1d(keys, curve.keys)
    chosen = [np.isin(curve.keys, keys) for curve in curves]
    mean_x = np.mean([curve.x[at] for curve, at in zip(curves, chosen, strict=True)], axis=0)
    mean_y = np.mean([curve.y[at] for curve, at in zip(curves, chosen, strict=True)], axis=0)
    return Curve(keys, mean_x, mean_y)


def differ(curves: Sequence[Curve], others: Sequence[Curve]) -> bool:
    """Whether the second set is there and says something else than the first."""
    return bool(others) and not (
        len(curves) == len(others)
        and all(
            np.array_equal(one.keys, other.keys) and np.allclose(one.y, other.y, equal_nan=True)
            for one, other in zip(curves, others, strict=True)
        )
    )


def uniform_attention(arms: Iterable[Arm]) -> list[float]:
    """The first-token attention of uniform causal weights, (H_T - 1)/(T - 1): one value a context length."""
    values = [last_probe(run, "first_token_attention/uniform") for arm in arms for run in arm.runs]
    # Rounded, so that runs on the same text share one line whatever the order their sums were taken in.
    return sorted({round(float(value), 9) for value in values if value is not None})


def probed_at(arms: Sequence[Arm]) -> str:
    """Where in training the probes stand that are drawn by layer, in words, with what is left out.

    Raises:
        DataError: no run has a probe record.
    """
    drawn = [run for arm in arms for run in furthest(arm)]
    steps = sorted({run.probe_steps()[-1] for run in drawn})
    if not steps:
        raise no_record(arms, "a probe record")
    if steps == [0] and all(run.source_path.is_file() for run in drawn):
        return "as imported"
    place = f"step {steps[0]:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}, not equal"
    probed_runs = sum(bool(run.probe_steps()) for arm in arms for run in arm.runs)
    return f"after {place}{_left_out(probed_runs - len(drawn))}"


def recorded(metric: str) -> Callable[[Run], Point | None]:
    """What gives a run's last recorded value of a metric of metrics.jsonl."""

    def point(run: Run) -> Point | None:
        steps, values = run.series(metric)
        return Point(int(steps[-1]), float(values[-1])) if len(values) else None

    return point


def probed(array: str, reduce: Callable[[np.ndarray], Any] = np.mean) -> Callable[[Run], Point | None]:
    """What gives one number from an array of a run's last probe record."""

    def point(run: Run) -> Point | None:
        value = last_probe(run, array)
        return None if value is None else Point(run.probe_steps()[-1], float(reduce(value)))

    return point


def each_arm(arms: Sequence[Arm], last: Callable[[Run], Point | None], form: str = ".3f") -> str:
    """`softmax 0.412, sigmoid 0.051 (means of 2 seeds)`.

    A mean is over the seeds that reached the arm's last step: runs that ended earlier, diverged ones among them, are
    counted as left out, and steps are named where arms stand at different ones.

    Raises:
        DataError: no run has the number.
    """
    found = {arm.name: [point for point in map(last, arm.runs) if point is not None] for arm in arms}
    found = {name: points for name, points in found.items() if points}
    if not found:
        raise no_record(arms, "the number this figure is read by")
    reached = {name: max(point.step for point in points) for name, points in found.items()}
    means = {name: [point.value for point in points if point.step == reached[name]] for name, points in found.items()}
    places = {name: f" at step {step:,}" if len(set(reached.values())) > 1 else "" for name, step in reached.items()}
    parts = [f"{name} {np.mean(values):{form}}{places[name]}" for name, values in means.items()]
    counts = sorted({len(values) for values in means.values()})
    seeds = f" (means of {' or '.join(map(str, counts))} seeds)" if counts[-1] > 1 else ""
    return ", ".join(parts) + seeds + _left_out(sum(map(len, found.values())) - sum(map(len, means.values())))


def _left_out(count: int) -> str:
    """The remark that runs are missing from a mean."""
    return f" ({count} that ended earlier left out)" if count else ""
