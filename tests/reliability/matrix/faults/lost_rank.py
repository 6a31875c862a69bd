"""One of two ranks that is killed, stopped, or raises: the other must not wait for it for ever."""

import time
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

from matrix import planting
from matrix.fault import Fault, Trial
from matrix.workshop import Workshop

TIMEOUT = 8.0  # seconds that ranks wait for each other, at the start too
# From the fault: the timeout, the search for the rank to blame, a stop that is refused; on a busy machine.
ENDS_WITHIN = 60.0
STARTS_WITHIN = 60.0
CASES = (
    *((kind, rank, "step") for kind in ("SIGKILL", "raise", "SIGSTOP") for rank in (1, 0)),
    *(("SIGKILL", 1, "save"), ("raise", 0, "save"), ("SIGSTOP", 1, "save")),
    *(("SIGKILL", 0, "validation"), ("raise", 1, "validation"), ("SIGSTOP", 0, "validation")),
)
ENTRIES = {"step": 4, "save": 1, "validation": 1}
SAID = {
    "SIGKILL": "rank {} of 2 was ended by SIGKILL",
    "raise": "rank {} of 2 ended with exit code 1 (RuntimeError: power cut)",
    "SIGSTOP": "rank {} did not stop when asked and was killed",
}


class LostRank(Fault):
    """The ranks are two real processes that the command line starts."""

    place = 8
    name = "lost_rank"
    how = "SIGKILL, an exception, SIGSTOP in rank 0 or 1 of two; in a step, a save, a validation"
    must_hold = "both end, non-zero, within the timeout and the search; the rank is named; no process left"
    quick = 0
    full = len(CASES)

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """In order, from the start again when all were made."""
        for case in islice(cycle(CASES), count):
            yield _trial(workshop, *case)


def in_rank(rank: int, evidence: str, kind: str, place: str) -> None:
    """Plant it in one of the ranks that this process will start."""
    entry = ENTRIES[place]
    how: tuple[Any, ...] = (planting.signals, (evidence, [(place, entry, kind, "self")]))
    if kind == "raise":
        how = (planting.fail, (evidence, place, entry))
    planting.elsewhere({str(rank): how})


def _trial(workshop: Workshop, kind: str, rank: int, place: str) -> Trial:
    run = workshop.new_run()
    log, evidence = run.root.parent / "log", run.root.parent / "evidence"
    config = workshop.config_file({"micro_batch_size": 4, "timeout": TIMEOUT})
    command = ("train", "--config", config, "--devices", 2, "--out", run.root)
    process = workshop.start(*command, log=log, before=in_rank, given=(rank, str(evidence), kind, place))
    process.join(STARTS_WITHIN + ENDS_WITHIN)
    ended, left = time.time(), planting.left_of(run.root, process.pid or 0)
    if process.exitcode is None:
        process.kill()
    said, status, done = log.read_text(), run.status(), planting.noted(evidence)
    seconds = ended - done[0][0] if done else None
    happened = [] if done else ["nothing was injected"]
    if process.exitcode != 1 or seconds is None or seconds > ENDS_WITHIN:
        happened.append(f"exit code {process.exitcode} after {seconds} s")
    if SAID[kind].format(rank) not in said:
        happened.append(f"it said: {said[-900:]}")
    # Rank 0 keeps the record, so that its own failure is that of the run.
    recorded = "RuntimeError: power cut" if kind == "raise" else f"rank {rank} of 2"
    if status.get("state") != "failed" or recorded not in str(status.get("error")):
        happened.append(f"status.json says {status.get('state')}: {status.get('error')}")
    if left:
        happened.append(f"processes {left} were left")
    return Trial(
        what=f"{kind} in rank {rank}, in {place}", held=not happened, happened="; ".join(happened), seconds=seconds
    )
