"""The local launcher: an experiment's runs as processes on this machine, some at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sinkpretrain.comparison.experiment import Experiment, Member
from sinkpretrain.comparison.members import command, prepare
from sinkpretrain.errors import SinkpretrainError
from sinkpretrain.runs import Run, progress_text

LOG = "train.log"
POLL_SECONDS = 0.5
SECONDS_BETWEEN_LINES = 15.0


def launch(experiment: Experiment, root: Path, *, jobs: int | None = None, retries: int = 1) -> list[Run]:
    """Bring all runs to their end, `jobs` at a time; finished ones are found and left alone.

    Each process gets an equal share of the cores and writes to `train.log` in its run folder.

    Raises:
        ResumeError: a run there was started with another configuration; nothing is started. Names the difference.
        SinkpretrainError: some runs failed; the others were finished all the same. Names each, with its log.
    """
    members, jobs = experiment.members, jobs or default_jobs()
    runs = prepare(experiment, root)
    waiting = [member for member in members if runs[member.folder].status().get("state") != "done"]
    with _display(members, runs) as show, _processes() as working:
        exit_codes: dict[str, int] = {}
        while waiting or working:
            while waiting and len(working) < jobs:
                member = waiting.pop(0)
                working[member.folder] = _start(member, root, jobs)
            time.sleep(POLL_SECONDS)
            for folder in [folder for folder, process in working.items() if process.poll() is not None]:
                exit_codes[folder] = working.pop(folder).returncode
            show(set(working))
    failed = [f"{folder} (exit code {code}, see {root / folder / LOG})" for folder, code in exit_codes.items() if code]
    if failed:
        listed = "; ".join(failed)
        raise SinkpretrainError(f"{len(failed)} of {len(members)} runs failed: {listed}; mend it and repeat the sweep")
    return list(runs.values())


def _start(member: Member, root: Path, jobs: int) -> "subprocess.Popen[bytes]":
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    (root / member.folder).mkdir(parents=True, exist_ok=True)
    with (root / member.folder / LOG).open("ab") as log:
        return subprocess.Popen(
            command(member, root), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
        )


@contextmanager
def _processes() -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Running processes by folder; on the way out each is asked to save and stop, and waited for."""
    working: dict[str, subprocess.Popen[bytes]] = {}
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)),
        # A shell's background job inherits SIGINT as ignored, and Python then leaves it so.
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        yield working
    finally:
        for process in working.values():
            process.send_signal(signal.SIGTERM)
        for process in working.values():
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _display(members: Sequence[Member], runs: dict[str, Run]) -> Iterator[Any]:
    """A bar a run on a terminal, a line for all now and then elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"))
    bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    tasks = {member.folder: bars.add_task(member.folder, total=member.config.steps, values="") for member in members}
    last_line = 0.0

    def show(working: set[str], *, last: bool = False) -> None:
        nonlocal last_line
        for folder in tasks:
            _update(bars, tasks[folder], runs[folder])
        if not console.is_terminal and (last or time.monotonic() - last_line > SECONDS_BETWEEN_LINES):
            last_line = time.monotonic()
            states = (f"{folder} {_line(runs[folder])}" for folder in sorted(working) or tasks)
            console.print("  |  ".join(states), soft_wrap=True)

    with bars:
        yield show
        show(set(), last=True)


def _update(bars: Progress, task: TaskID, run: Run) -> None:
    status = run.status()
    bars.update(task, completed=status.get("step", 0), values=progress_text(status))


def _line(run: Run) -> str:
    status = run.status()
    state, step, steps = status.get("state", "waiting"), status.get("step", 0), status.get("steps", "?")
    return f"{state} {step}/{steps} {progress_text(status)}".strip()


def default_jobs() -> int:
    """One run a GPU; on a CPU one run at a time, with all cores."""
    import torch

    return max(1, torch.cuda.device_count())
