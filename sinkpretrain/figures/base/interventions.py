"""What interventions moved: a variant's records of one intervention, as means and spreads over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sinkpretrain.errors import DataError
from sinkpretrain.figures.base.arms import Arm, Curve, MissingRecord
from sinkpretrain.figures.base.style import GREY, colour
from sinkpretrain.records import UNTOUCHED, place
from sinkpretrain.runs import Run

SPREAD = "_spread"  # the label of bands and error bars


class Measured(NamedTuple):
    """The mean over seeds, the standard deviation between them (0 for one seed), and how many there are."""

    mean: np.ndarray
    spread: np.ndarray
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run recorded of an intervention at the position it is about."""

    run: Run
    position: int
    tokens: int
    place: str  # the layers and tokens that were changed, in words, where these are not all
    rows: tuple[dict[str, Any], ...]


def record_of(run: Run, name: str) -> Record | None:
    """A run's record of an intervention; None where it has none."""
    if name not in run.interventions():
        return None
    content = run.intervention(name)
    about = content["about"]
    rows = tuple(row for row in content["rows"] if row["position"] == about["position"])
    position, tokens = int(about["position"]), int(about["tokens"])
    return Record(run=run, position=position, tokens=tokens, place=place(about), rows=rows)


def records_of(arm: Arm, name: str) -> list[Record]:
    """The records of the arm's runs that have one.

    Raises:
        DataError: they are about different positions, places or lengths of text, so that they have no mean.
    """
    found = [record for run in arm.runs if (record := record_of(run, name)) is not None]
    about = {(record.position, record.place, record.tokens) for record in found}
    if len(about) > 1:
        each = (f"{one.run.name}{one.place} at position {one.position} of {one.tokens} tokens" for one in found)
        listed = "; ".join(each)
        raise DataError(f"{name}: the runs of '{arm.name}' were measured differently ({listed}); measure them alike")
    return found


def records_of_each(arms: Sequence[Arm], name: str) -> list[list[Record]]:
    """The records of each arm, as `records_of`.

    Raises:
        DataError: no run has one, or those of an arm have no mean.
    """
    records = [records_of(arm, name) for arm in arms]
    if not any(records):
        raise no_intervention(arms, name)
    return records


def no_intervention(arms: Sequence[Arm], *names: str) -> MissingRecord:
    """The error for runs of which none has a record of these interventions."""
    commands = " or ".join(f"sinkpretrain intervene RUN --with {name}" for name in names)
    return MissingRecord(arms, "an intervention record", f"make it with {commands}")


def strengths(records: Sequence[Record], condition: str) -> list[float]:
    """The strengths at which a condition was measured, rising."""
    return sorted({float(row["strength"]) for one in records for row in one.rows if row["condition"] == condition})


def measured(
    records: Sequence[Record], condition: str, quantity: str, strength: float | None = None
) -> Measured | None:
    """A quantity under a condition, at its largest strength unless one is given; None where it was not measured.

    The spread is between runs where there are several (each the mean over its seeds of text), else between the seeds
    of text.
    """
    if strength is None and condition != UNTOUCHED:
        strength = max(strengths(records, condition), default=None)
    by_run = [
        [
            np.asarray(row[quantity], dtype=np.float64)
            for row in record.rows
            if row["condition"] == condition and (condition == UNTOUCHED or row["strength"] == strength)
        ]
        for record in records
    ]
    by_run = [values for values in by_run if values]
    if not by_run:
        return None
    values = by_run[0] if len(by_run) == 1 else [np.mean(one, axis=0) for one in by_run]
    spread = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])
    return Measured(np.mean(values, axis=0), np.asarray(spread), len(values))


def curve(value: Measured) -> Curve:
    """A measured list by position or layer as a curve."""
    places = np.arange(len(value.mean))
    return Curve(places, places, value.mean)


def band(axes: Axes, arm: Arm, value: Measured) -> None:
    """The spread over seeds as a band around a curve."""
    if value.seeds > 1:
        low, high = value.mean - value.spread, value.mean + value.spread
        look: dict[str, Any] = {"color": colour(arm), "alpha": 0.18, "linewidth": 0, "label": SPREAD}
        axes.fill_between(np.arange(len(low)), low, high, **look)


def spread_note(figure: Canvas, *, bars: bool = False) -> list[Line2D]:
    """What the legend says of the bands or error bars of a figure; nothing where it has none."""
    bands = {collection.get_label() for axes in figure.axes for collection in axes.collections}
    if SPREAD not in bands | {container.get_label() for axes in figure.axes for container in axes.containers}:
        return []
    look: dict[str, Any] = {"marker": "|", "markersize": 12} if bars else {"linewidth": 9, "alpha": 0.35}
    label = f"{'bar' if bars else 'band'}: standard deviation of seeds"
    return [Line2D([], [], color=GREY, linestyle="" if bars else "-", label=label, **look)]


def places(records: Sequence[Record]) -> str:
    """Where the interventions acted, in words that follow their name: each place once."""
    return " and".join(dict.fromkeys(record.place for record in records))


def positions(records: Sequence[Record]) -> str:
    """`position 10`, or `positions 10, 12` where the arms differ."""
    found = sorted({record.position for record in records})
    return f"position{'s' * (len(found) > 1)} {', '.join(map(str, found))}"
