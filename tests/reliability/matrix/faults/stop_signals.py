"""SIGTERM, SIGUSR1 and SIGINT, to a run alone, to one of two ranks, to both, to what started them; once and twice."""

import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from matrix import planting
from matrix.fault import Fault, Trial
from matrix.workshop import Workshop
from sinkpretrain import checkpoints
from sinkpretrain.runs import Run

WITHIN = 10.0  # seconds from the last signal to the end
ENDS = 90.0  # seconds after which a run counts as hanging
EXIT_CODES = {"SIGUSR1": 75, "SIGTERM": 75, "SIGINT": 130}
# Which entry of a place, as `planting` counts: in step 5, the validation and the probes of step 6, the save of step 4.
ENTRIES = {"start": 0, "step": 4, "validation": 1, "probe": 4, "save": 1, "write": 2}
SAVING_TO_STOP = 4  # the entry of `write` in the save that a signal in step 5, or in the probes of step 6, asks for
BETWEEN = 1.3  # seconds between two signals that a supervisor takes for two
ALONE, LAUNCHER, ALL = "the run alone", "the launcher", "all ranks"
OF_RANKS = {"rank 0": (0,), "rank 1": (1,), ALL: (0, 1), LAUNCHER: (0,)}  # who sends it
SMALL = {"micro_batch_size": 4}  # so that two ranks do what one does in two micro-batches, bit for bit
PLACES = ("step", "write", "validation", "start", "probe")
PLACES_OF_RANKS = ("step", "validation", "save", "probe", "start")
TWICE = (("step", "write"), ("step", "step"), ("validation", "validation"), ("probe", "write"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """Which signal falls where, on whom, and where a second one does."""

    name: str
    where: str
    to: str = ALONE
    second: str = ""

    def __str__(self) -> str:
        again = f", and again in {self.second}" if self.second else ""
        return f"{self.name} to {self.to} in {self.where}{again}"

    @property
    def plan(self) -> list[tuple[str, int, str, str, float]]:
        """For `planting.signals`."""
        to = "launcher" if self.to == LAUNCHER else "self"
        plan = [(self.where, ENTRIES[self.where], self.name, to, 0.0)]
        if self.second:
            entry = SAVING_TO_STOP if self.second == "write" else ENTRIES[self.second]
            plan.append((self.second, entry, self.name, to, BETWEEN if self.to == LAUNCHER else 0.0))
        return plan


def _cases() -> list[Case]:
    """The first ones differ most; those of ranks, which take ten seconds to start, come last."""
    names = cycle(EXIT_CODES)
    once = [Case(name=next(names), where=where) for where in islice(cycle(PLACES), 20)]
    twice = [Case(name=name, where=where, second=second) for name in EXIT_CODES for where, second in TWICE]
    ranks = [
        Case(name=next(names), where=where, to=to) for to in ("rank 1", "rank 0", ALL) for where in PLACES_OF_RANKS
    ]
    launcher = [Case(name=name, where=where, to=LAUNCHER) for name, where in (("SIGINT", "step"), ("SIGUSR1", "save"))]
    killed = Case(name="SIGTERM", where="step", to=LAUNCHER, second="step")
    return [*once[:4], twice[0], *once[4:], *twice[1:], *ranks, *launcher, killed]


class StopSignals(Fault):
    """Each run is resumed by a process alone, and must end as if nothing had been."""

    place = 3
    name = "stop_signals"
    how = (
        "SIGTERM, SIGUSR1, SIGINT to a run, to one of two ranks, to both, to the launcher; in start-up, a step, a "
        "validation, a probe, a save; twice"
    )
    must_hold = (
        "exit 75 (SIGINT: 130) within 10 s, saved at the step it says, resumed bit-identical; the second ends it at "
        "once"
    )
    quick = 5
    full = 50

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """In order, from the start again when all were made."""
        for case in islice(cycle(_cases()), count):
            yield _trial(workshop, case)


def _trial(workshop: Workshop, case: Case) -> Trial:
    run = workshop.new_run()
    log, evidence = run.root.parent / "log", run.root.parent / "evidence"
    command = ["train", "--config", workshop.config_file(SMALL), "--out", run.root]
    before, given = planting.signals, (str(evidence), case.plan)
    if case.to != ALONE:
        command += ["--devices", 2]
        before, given = in_ranks, (OF_RANKS[case.to], *given)
    process = workshop.start(*command, log=log, before=before, given=given)
    process.join(ENDS)
    ended, left = time.time(), planting.left_of(run.root, process.pid or 0)
    if process.exitcode is None:
        process.kill()
    sent = planting.noted(evidence)
    seconds = ended - sent[-1][0] if sent else None
    happened = [*_unmet(case, process.exitcode, log.read_text(), run)]
    if len(sent) != len(case.plan) * (2 if case.to == ALL else 1):
        happened.append(f"the signals sent were {[what for _, what in sent]}")
    elif seconds is not None and seconds > WITHIN:
        happened.append(f"it took {seconds:.1f} s")
    happened += [f"processes {left} were left"] if left else []
    happened += _unmet_by_resuming(workshop, run, log)
    return Trial(what=str(case), held=not happened, happened="; ".join(happened), seconds=seconds)


def in_ranks(ranks: Sequence[int], *given: Any) -> None:
    """Plant signals in ranks that this process will start."""
    planting.elsewhere({str(rank): (planting.signals, given) for rank in ranks})


def _unmet(case: Case, code: int | None, said: str, run: Run) -> Iterator[str]:
    """What does not hold of the end of a run that was sent signals."""
    if case.second:
        allowed = [-signal.Signals[case.name]] if case.to == ALONE else [1, EXIT_CODES[case.name]]
        if code not in allowed:
            yield f"exit code {code}"
        return
    if code != EXIT_CODES[case.name] or "Traceback" in said:
        yield f"exit code {code}, and it said: {said[-600:]}"
    if run.status().get("state") != "preempted":
        yield f"its state is {run.status().get('state')}"
    steps = checkpoints.steps(run.checkpoints)
    told = re.findall(rf"stopped by {case.name} (?:and saved at step (\d+)|before)", said)
    if told != [str(steps[-1]) if steps else ""]:
        yield f"it told of a stop at steps {told}, the checkpoints are {steps}"


def _unmet_by_resuming(workshop: Workshop, run: Run, log: Path) -> Iterator[str]:
    """What does not hold of the run's checkpoints, and of its end, once it was resumed."""
    _, problems = checkpoints.newest_valid(run.checkpoints)
    yield from problems
    code = workshop.finish("train", "--resume", run.root, "--devices", 1, log=log)
    if code:
        yield f"it could not be resumed, exit code {code}: {log.read_text()[-600:]}"
    elif difference := workshop.difference(run, SMALL):
        yield f"after resuming {difference}"
