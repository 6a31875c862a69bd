"""The local launcher: an experiment's runs as processes on this machine, as many at a time as fit on its devices."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sinkpretrain.comparison.attempts import Attempts
from sinkpretrain.comparison.devices import Pool, cores_here, gpus_here
from sinkpretrain.comparison.experiment import Experiment
from sinkpretrain.comparison.guard import GRACE_SECONDS, Guard
from sinkpretrain.comparison.members import diverged_error, prepare
from sinkpretrain.comparison.run_table import RunTable
from sinkpretrain.errors import Interrupted, Preempted, ResumeError, SinkpretrainError, check
from sinkpretrain.runs import Run

POLL_SECONDS = 0.25
IN_USE_SECONDS = 20.0  # that a sweep waits for runs in another process's hands when it has nothing else to do


def launch(experiment: Experiment, root: Path, *, jobs: int | None = None, retries: int = 1) -> list[Run]:
    """Bring all runs to their end; finished ones are found and left alone, diverged ones too.

    Each run has `config.devices` GPUs of its own, or on the processor a share of the cores, and writes to `train.log`
    in its folder. A run that fails is tried again `retries` times; one that is preempted goes on. A signal has all runs
    saved, a second one kills them; the same call goes on where each stood.

    Raises:
        ConfigError: a run needs more devices than are here; nothing is started.
        ResumeError: a run there was started with another configuration; nothing is started. Names the difference. Or
            another process is working on runs; the others were finished.
        NonFiniteError: runs diverged, no other failed. They stay in the experiment and are not tried again.
        Preempted: a signal stopped the sweep; its runs were saved.
        SinkpretrainError: some runs failed; the others were finished all the same. Names each, with its log.
    """
    check(retries >= 0, "--retries", retries, ">= 0")
    pool = Pool(experiment.members, jobs, gpus_here(), cores_here())
    prepare(experiment, root)
    runs = [Attempts(member, root, retries) for member in experiment.members]
    with Guard() as guard, _stop_on_signals() as stop, RunTable(runs) as table:
        try:
            _work(runs, pool, guard, stop, table)
        finally:
            _leave_nothing_behind(runs, guard)
    _refuse_unfinished(runs, root, stop)
    return [run.run for run in runs]


class _Stop:
    """The signals that asked this sweep to stop, in order."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number))


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Count SIGINT and SIGTERM instead of ending; a shell's background job would have SIGINT ignored."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # of a notebook, say: Python hands signals to the main thread only
        return
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _work(runs: Sequence[Attempts], pool: Pool, guard: Guard, stop: _Stop, table: RunTable) -> None:
    """Until every run is at its end, or stopped, or for long in use elsewhere."""
    busy_until, answered = time.monotonic(), 0
    while True:
        if not stop.received:
            _start(runs, pool, guard)
        elif len(stop.received) > answered:
            answered = len(stop.received)
            _stop(runs, stop, table)
        running = [run for run in runs if run.standing == "running"]
        table.show()
        if running:
            busy_until = time.monotonic()
        waits_for_others = any(run.is_unfinished for run in runs) and not stop.received
        if not running and not (waits_for_others and time.monotonic() - busy_until < IN_USE_SECONDS):
            return
        time.sleep(POLL_SECONDS)
        for run in running:
            if run.has_ended(guard):
                assert run.slot is not None
                pool.give_back(run.slot)
        table.show()


def _start(runs: Sequence[Attempts], pool: Pool, guard: Guard) -> None:
    """Start what fits, in the order of the experiment."""
    for run in runs:
        if run.is_unfinished and (slot := pool.take(run.member.config)) and not run.start(slot, guard):
            pool.give_back(slot)


def _stop(runs: Sequence[Attempts], stop: _Stop, table: RunTable) -> None:
    """At the first signal have running runs saved, at the second end them."""
    running = [run for run in runs if run.standing == "running"]
    named = f"{len(running)} run{'s' * (len(running) != 1)}"
    if len(stop.received) > 1:
        table.say(f"{stop.received[1].name}: killing {named}")
        for run in running:
            run.kill()
        return
    table.say(f"{stop.received[0].name}: waiting for {named} to save; press Ctrl-C again to kill at once")
    for run in running:
        run.ask_to_stop()


def _leave_nothing_behind(runs: Sequence[Attempts], guard: Guard) -> None:
    """After an error of the sweep itself: save and stop what still runs."""
    for run in runs:
        run.ask_to_stop()
    end = time.monotonic() + GRACE_SECONDS
    while running := [run for run in runs if run.standing == "running"]:
        for run in running:
            if time.monotonic() > end:
                run.kill()
            run.has_ended(guard)
        time.sleep(0.05)


def _refuse_unfinished(runs: Sequence[Attempts], root: Path, stop: _Stop) -> None:
    """Raise unless all runs are done, with what is to do about them."""
    by = {standing: [run for run in runs if run.standing == standing] for standing in ("failed", "diverged", "in use")}
    failed, diverged, in_use = by.values()
    lost = [f"  {run.member.folder}: {run.why()}" for run in failed]
    away = [f"  {run.member.folder}: diverged at step {run.status().get('step', '?')} ({run.log})" for run in diverged]
    done = sum(run.standing == "done" for run in runs)
    if stop.received and done + len(diverged) < len(runs):
        kind = Interrupted if stop.received[0] == signal.SIGINT else Preempted
        raise kind(
            f"{root}: stopped by {stop.received[0].name} with {done} of {len(runs)} runs done; repeat the same command "
            "to go on where each stood" + "".join(f"\n{line}" for line in lost)
        )
    if failed:
        head = f"{root}: {len(failed)} of {len(runs)} runs failed"
        advice = "mend the cause and repeat the sweep, which goes on where they stood:"
        raise SinkpretrainError("\n".join([f"{head}; {advice}", *lost, *away]))
    if in_use:
        names = ", ".join(run.member.folder for run in in_use)
        raise ResumeError(
            f"{root}: another sweep is working on {names}; {done} of {len(runs)} runs are done. Wait for it, or "
            "stop it and repeat this one"
        )
    if diverged:
        raise diverged_error(root, away, len(runs))
