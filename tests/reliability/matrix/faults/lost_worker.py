"""A data worker that is killed, as by a kernel out of memory, or stopped, as by a disk that does not answer."""

import time
from collections.abc import Iterator
from pathlib import Path

from matrix import planting
from matrix.fault import Fault, Trial
from matrix.workshop import Workshop

TIMEOUT = 4.0  # seconds that the run waits
# Beyond the timeout: the end of the run, and on a busy machine the start of two ranks.
ENDS_WITHIN = {1: 30.0, 2: 60.0}
# signal, workers, step, ranks
TRIALS = (
    ("SIGKILL", 1, 3, 1),
    ("SIGSTOP", 2, 3, 1),
    ("SIGSTOP", 1, 5, 1),
    ("SIGKILL", 2, 0, 1),
    ("SIGKILL", 2, 5, 1),
    ("SIGKILL", 1, 7, 1),
    ("SIGSTOP", 2, 0, 1),
    ("SIGSTOP", 1, 2, 1),
    ("SIGKILL", 1, 3, 2),
    ("SIGSTOP", 1, 3, 2),
)
SAID = {"SIGKILL": "was ended by SIGKILL", "SIGSTOP": f"has not answered for {TIMEOUT:g} s (timeout)"}


class LostWorker(Fault):
    """Every trial is told apart by its signal, its workers, its step and whether the run is alone."""

    place = 9
    name = "lost_worker"
    how = "a data worker killed or stopped, with one and two workers, alone and in one of two ranks"
    must_hold = "a named error, exit 1, no hang, no process left"
    quick = 2
    full = len(TRIALS)

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """In order, from the start again when all were made."""
        for number in range(count):
            yield _trial(workshop, *TRIALS[number % len(TRIALS)])


def _trial(workshop: Workshop, signal: str, workers: int, step: int, ranks: int) -> Trial:
    what = f"{signal} to a data worker of {workers} at step {step}, {ranks} ranks"
    run = workshop.new_run()
    log, evidence = run.root.parent / "log", run.root.parent / "evidence"
    # More batches than the workers have ready when it happens.
    overrides = {"data": {"workers": workers}, "timeout": TIMEOUT, "micro_batch_size": 4 // ranks}
    config = workshop.config_file(overrides)
    plan = (str(evidence), [("step", step, signal, "worker")])
    before, given = (planting.signals, plan) if ranks == 1 else (in_rank_1, plan)
    command = ("train", "--config", config, "--devices", ranks, "--out", run.root)
    process = workshop.start(*command, log=log, before=before, given=given)
    process.join(ENDS_WITHIN[ranks])
    left = planting.left_of(run.root, process.pid or 0)
    ended = time.time()
    happened = "; ".join(_unmet(signal, process.exitcode, left, log, run.status()))
    if process.exitcode is None:
        process.kill()
    done = planting.noted(evidence)
    happened = happened if done else f"nothing was injected; {happened}"
    return Trial(what=what, held=not happened, happened=happened, seconds=ended - done[0][0] if done else None)


def in_rank_1(evidence: str, plan: list[tuple[str, int, str, str]]) -> None:
    """Plant the signals in one of two ranks."""
    planting.elsewhere({"1": (planting.signals, (evidence, plan))})


def _unmet(signal: str, code: int | None, left: list[int], log: Path, status: dict[str, object]) -> Iterator[str]:
    said, failed = log.read_text(), str(status.get("error"))
    if code != 1:
        yield f"exit code {code}"
    if left:
        yield f"processes {left} were left"
    if SAID[signal] not in said or "Traceback" in said:
        yield f"it said: {said[-600:]}"
    if status.get("state") != "failed" or SAID[signal] not in failed:
        yield f"status.json says {status.get('state')}: {failed}"
