"""A process, or its machine, that ends right before, right after or in the middle of any change of the disk."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

from matrix.disk import Disk, Touch, list_touches, listed
from matrix.fault import Fault, Trial
from matrix.power import Power
from matrix.workshop import CONTEXT, Workshop
from sinkpretrain import checkpoints
from sinkpretrain.runs import Run

CRASHED = 86  # exit code of a process that ended where it was told to
WITHOUT_POWER = "without power"
# Three checkpoints, so that the first is removed, and probes before, in the middle and at the end.
SHORT = {
    "tokens": 3 * 8 * CONTEXT,
    "validation": {"every": 2, "windows": 8},
    "probes": {"every": 2, "log_spaced": False, "windows": 1, "metrics": ["sink_rate"]},
    "checkpoints": {"every": 1},
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a process ends: at a touch of the disk, in a new run or in one that goes on."""

    touch: Touch
    when: str  # before, half, after, without power
    goes_on: bool

    def __str__(self) -> str:
        run = "a run that goes on" if self.goes_on else "a new run"
        when = {"half": "in the middle of", WITHOUT_POWER: "with a power cut after"}.get(self.when, self.when)
        path = re.sub(r"\.\d+\.tmp$", ".tmp", self.touch.path)  # the number of a process is no part of the place
        return f"{run} ends {when} {self.touch.kind} {path} (touch {self.touch.number})"


class CrashPoints(Fault):
    """Every touch of the disk of a short run, and those of a crashed run that goes on, until it saves."""

    place = 2
    name = "crash_points"
    how = (
        "exit before and after every write, fsync, rename, unlink (after one is before the next); in the middle of "
        "every write; a power cut, which takes what is not synced, after every rename and write of the record"
    )
    must_hold = "the same command goes on and ends bit-identical; nothing temporary stays"
    quick = 3
    full = 250

    def __init__(self) -> None:
        self._points = 0

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """Crash at points that lie far from each other first."""
        crashed = _crashed_run(workshop)
        points = [*_points(workshop, None), *_points(workshop, crashed)]
        self._points = len(points)
        stride = next(step for step in range(round(len(points) * 0.618), 0, -1) if gcd(step, len(points)) == 1)
        for number in range(count):
            point = points[number * stride % len(points)]
            happened = _happened(workshop, point, crashed if point.goes_on else None)
            yield Trial(what=str(point), held=not happened, happened=happened)

    def measured(self, trials: Sequence[Trial]) -> str:
        """How many points there are."""
        return f"{len({trial.what for trial in trials})} of {self._points} points"


def crash_at(folder: Path, number: int, when: str) -> None:
    """Plant: end this process at a touch of the disk below the folder."""
    power = Power(folder)

    def before(touch: Touch) -> bool:
        power.before(touch)
        if touch.number == number and when == "before":
            os._exit(CRASHED)
        return touch.number == number and when == "half"

    def after(touch: Touch) -> None:
        power.after(touch)
        if touch.number == number:
            if when == WITHOUT_POWER:
                power.cut()
            os._exit(CRASHED)

    Disk(folder, before, after)


def _crashed_run(workshop: Workshop) -> Run:
    """A run that ended in the middle of the line of step 3, its newest checkpoint damaged since."""
    touches = [point.touch for point in _points(workshop, None) if point.when == "half"]
    last_line = [touch for touch in touches if touch.path == "metrics.jsonl"][-1]
    run = workshop.new_run()
    assert _train(workshop, run, crash_at, last_line.number, "half") == CRASHED
    newest = checkpoints.path_of(run.checkpoints, checkpoints.steps(run.checkpoints)[-1])
    (newest / "model.safetensors").write_bytes(b"")
    return run


def _points(workshop: Workshop, crashed: Run | None) -> list[Point]:
    """Where a new run can end, or one that goes on from a crashed one, until it saves."""
    run, listing = _placed(workshop, crashed), workshop.new_folder("listings") / "touches.jsonl"
    assert _train(workshop, run, list_touches, listing) == 0
    touches = listed(listing)
    if crashed is not None:
        saves = [touch.number for touch in touches if touch.kind == "mkdir" and touch.path.startswith("checkpoints/")]
        touches = touches[: saves[0]]
    chosen = list(_without_repetition(touches))
    return [
        Point(touch=touch, when=when, goes_on=crashed is not None)
        for touch, last in zip(chosen, [None, *chosen], strict=False)
        for when in _moments(touch, last)
    ]


def _moments(touch: Touch, last: Touch | None) -> Iterator[str]:
    """When a process can end at a touch; right before it is the same as right after the one before it."""
    if last is None or touch.number > last.number + 1:
        yield "before"
    if touch.can_be_half:
        yield "half"
    yield "after"
    if touch.kind in ("rename", "replace") or touch.path == "metrics.jsonl":
        yield WITHOUT_POWER


def _without_repetition(touches: Sequence[Touch]) -> Iterator[Touch]:
    """All touches but the inner ones of many writes in a row to one file: an archive of arrays has dozens."""
    kinds = [(touch.kind, touch.path) for touch in touches]
    for place, touch in enumerate(touches):
        if not kinds[max(place - 1, 0)] == kinds[place] == kinds[min(place + 1, len(kinds) - 1)]:
            yield touch


def _placed(workshop: Workshop, crashed: Run | None) -> Run:
    """A new run, or a copy of the crashed one."""
    run = workshop.new_run()
    if crashed is not None:
        shutil.copytree(crashed.root, run.root)
    return run


def _train(workshop: Workshop, run: Run, plant=None, *given) -> int:
    command = ("train", "--config", workshop.config_file(SHORT), "--out", run.root, "--continue")
    log = run.root.parent / "log"
    return workshop.finish(*command, log=log, before=plant, given=(run.root, *given) if plant else ())


def _happened(workshop: Workshop, point: Point, crashed: Run | None) -> str:
    """What did not hold when a run ended there and was started again; empty where all did."""
    run = _placed(workshop, crashed)
    code = _train(workshop, run, crash_at, point.touch.number, point.when)
    if code != CRASHED:
        return f"the run did not end there but with exit code {code}"
    code = _train(workshop, run)
    if code != 0:
        return f"the same command ended with exit code {code}: {_last_line(run.root.parent / 'log')}"
    if left := [str(path.relative_to(run.root)) for path in run.root.rglob(".*.tmp")]:
        return f"{', '.join(left)} stayed"
    return workshop.difference(run, SHORT)


def _last_line(log: Path) -> str:
    return log.read_text().strip().splitlines()[-1]
