"""Processes that start at the same moment on one run folder."""

import math
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from matrix import planting
from matrix.fault import Fault, Trial
from matrix.workshop import PATIENCE, Workshop
from sinkpretrain.runs import Run

READY = 0.5  # seconds that the processes have to come to the start
APART = 0.02  # seconds between two of them, at most
AT_ONCE = 5.0  # seconds from the start to a refusal, on a busy machine
REFUSED = 5  # exit code
SAID = ("is in use by another process", "holds a run already")


class TwoWriters(Fault):
    """Odd trials race for a new folder, even ones for a run that was killed; every fifth has three processes."""

    place = 10
    name = "two_writers"
    how = "two or three processes start at the same moment on a new run folder, or on one that was killed"
    must_hold = "one owner, whose run ends bit-identical; the others are refused at once (exit 5)"
    quick = 2
    full = 50

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """Race so many times."""
        for number in range(1, count + 1):
            yield _trial(workshop, is_new=number % 2 == 1, processes=3 if number % 5 == 0 else 2)


def wait_until(moment: float, evidence: str) -> None:
    """Plant: start then, not sooner; the time of the start is noted."""
    from sinkpretrain.training import train  # noqa: F401  what takes time to import comes before the start

    while time.time() < moment:
        time.sleep(1e-4)
    planting.note(evidence, "started")


def _trial(workshop: Workshop, is_new: bool, processes: int) -> Trial:
    run = workshop.new_run()
    command: tuple[Any, ...] = ("train", "--config", workshop.config_file(), "--out", run.root)
    if not is_new:
        plan = (str(run.root.parent / "killed"), [("step", 5, "SIGKILL", "self")])
        log = run.root.parent / "log"
        assert workshop.finish(*command, log=log, before=planting.signals, given=plan) == -9, log.read_text()
        command = ("train", "--resume", run.root)
    what = f"{processes} processes on a {'new' if is_new else 'killed'} run"
    seconds, happened = _race(workshop, run, command, processes)
    return Trial(what=what, held=not happened, happened=happened, seconds=seconds)


def _race(workshop: Workshop, run: Run, command: Sequence[Any], processes: int) -> tuple[float, str]:
    """Seconds from the last start to the last refusal, and what does not hold."""
    moment = time.time() + READY
    racers: dict[int, BaseProcess] = {}
    for number in range(processes):
        given = (moment + workshop.random.uniform(0, APART), str(_file(run, "evidence", number)))
        process = workshop.start(*command, log=_file(run, "log", number), before=wait_until, given=given)
        racers[process.sentinel] = process
    ended = _ends(list(racers))
    codes = [process.exitcode for process in racers.values()]
    said = [_file(run, "log", number).read_text() for number in range(processes)]
    if sorted(map(str, codes)) != ["0", *[str(REFUSED)] * (processes - 1)]:
        return 0.0, f"they ended with {codes}: {[text[-600:] for text in said]}"
    started = max(when for number in range(processes) for when, _ in planting.noted(_file(run, "evidence", number)))
    owner = codes.index(0)
    seconds = max(end for number, end in enumerate(ended) if number != owner) - started
    happened = [text for number, text in enumerate(said) if number != owner and not any(map(text.__contains__, SAID))]
    if seconds > AT_ONCE:
        happened.append(f"the refusal took {seconds:.1f} s")
    if difference := workshop.difference(run):
        happened.append(f"the owner's run: {difference}")
    return seconds, "; ".join(happened)


def _file(run: Run, kind: str, number: int) -> Path:
    """The log, or the evidence, of one of the processes."""
    return run.root.parent / f"{kind}-{number}"


def _ends(sentinels: Sequence[int]) -> list[float]:
    """When each of some processes ended; infinity for one that did not."""
    ended = dict.fromkeys(sentinels, math.inf)
    until = time.monotonic() + PATIENCE
    while (running := [one for one in sentinels if ended[one] == math.inf]) and time.monotonic() < until:
        for sentinel in connection.wait(running, timeout=1.0):
            ended[sentinel] = time.time()  # type: ignore[index]
    return list(ended.values())
