"""One run of a sweep on this machine: its process, its tries, and what an exit code means for it."""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

from sinkpretrain import checkpoints
from sinkpretrain.comparison.devices import Slot
from sinkpretrain.comparison.experiment import Member
from sinkpretrain.comparison.guard import Guard
from sinkpretrain.comparison.members import command, final_state
from sinkpretrain.errors import ConfigError, DataError, Interrupted, NonFiniteError, Preempted, ResumeError
from sinkpretrain.files import hold
from sinkpretrain.runs import Run

LOG = "train.log"
# Trying again would end the same way.
FINAL = (ConfigError.exit_code, DataError.exit_code, ResumeError.exit_code)
SAVED = (Preempted.exit_code, Interrupted.exit_code)

Standing = Literal["waiting", "preempted", "running", "done", "diverged", "failed", "in use", "stopped"]


class Attempts:
    """A run and how far this sweep has brought it.

    `waiting` (at first, or to be tried again), `preempted` (to go on; no try was used up), `running`, `done`,
    `diverged` (its loss was not finite: an outcome, not tried again), `failed`, `in use` (by another process) or
    `stopped` (with the sweep).
    """

    def __init__(self, member: Member, root: Path, retries: int) -> None:
        self.member = member
        self.root = root
        self.run = Run(root / member.folder)
        self.tries_allowed = retries + 1
        self.failures = 0
        self.exit_code: int | None = None
        self.standing: Standing = "waiting"
        self.slot: Slot | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._claimed: IO[str] | None = None
        self._asked_to_stop = False
        self._began_at = (0, 0.0)  # step and seconds when this process took over
        self._saved_before = -1
        self.look()

    @property
    def log(self) -> Path:
        """What the run's processes wrote, one after the other."""
        return self.run.root / LOG

    @property
    def is_unfinished(self) -> bool:
        """Whether there is something to start."""
        return self.standing in ("waiting", "preempted", "in use")

    @property
    def note(self) -> str:
        """The standing in words, with the number of the try where it is not the first."""
        if self.failures and self.standing in ("waiting", "running"):
            return f"{'' if self.standing == 'running' else 'waits: '}try {self.failures + 1} of {self.tries_allowed}"
        return self.standing

    def status(self) -> dict[str, Any]:
        """The run's status.json; empty where it cannot be read."""
        try:
            return self.run.status()
        except (OSError, ValueError):
            return {}

    def look(self) -> None:
        """Find out whether the run is at its end already, or in another process's hands."""
        if end := final_state(self.status()):
            self.standing = end
        elif self.run.root.exists() and _is_locked(self.run):
            self.standing = "in use"
        elif self.standing == "in use":
            self.standing = "waiting"

    def start(self, slot: Slot, guard: Guard) -> bool:
        """Start the run's process on a slot; False where there is nothing to start, `standing` says why."""
        self.look()
        if self.standing not in ("waiting", "preempted"):
            return False
        self._claimed = claim(self.run)
        if self._claimed is None:
            self.standing = "in use"
            return False
        words, status = command(self.member, self.root), self.status()
        self._began_at = (status.get("step", 0), status.get("seconds", 0.0))
        self._saved_before = self._saved()
        with self.log.open("ab") as log, slot.pinned():
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            try_ = f"try {self.failures + 1} of {self.tries_allowed}"
            log.write(f"=== {now}, {try_}, {slot}: {shlex.join(words)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=slot.environment(os.environ),
                start_new_session=True,  # a terminal's Ctrl-C is the sweep's affair
            )
        guard.watch(self._process.pid)
        self.slot, self.standing = slot, "running"
        return True

    def has_ended(self, guard: Guard) -> bool:
        """Whether the process has ended; `standing` says what follows."""
        if self._process is None or self._process.poll() is None:
            return False
        guard.forget(self._process.pid)
        self.exit_code = self._process.returncode
        self._process = None
        self.standing = self._what_follows(self.exit_code)
        if self._claimed is not None:
            self._claimed.close()
        return True

    def ask_to_stop(self) -> None:
        """Have the run saved and stopped, if it is running; asks once."""
        if self._process is not None and not self._asked_to_stop:
            self._asked_to_stop = True
            self._process.terminate()

    def kill(self) -> None:
        """End the process and its own at once."""
        if self._process is not None and self._process.poll() is None:
            self._asked_to_stop = True
            os.killpg(self._process.pid, signal.SIGKILL)

    def seconds_left(self, status: Mapping[str, Any]) -> float | None:
        """Until the last step, at the speed of this process; None before it has made a step."""
        step, seconds, steps = status.get("step", 0), status.get("seconds", 0.0), status.get("steps")
        if step < self._began_at[0]:  # it went on from a checkpoint before that
            self._began_at = (step, seconds)
        made, took = step - self._began_at[0], seconds - self._began_at[1]
        return None if made <= 0 or steps is None else max(0.0, took / made * (steps - step))

    def why(self) -> str:
        """How the last process of a run that failed ended: exit code or signal, tries, the last line of its log."""
        assert self.exit_code is not None
        how = f"exit code {self.exit_code}"
        if self.exit_code < 0:
            how = f"killed by {signal.Signals(-self.exit_code).name}"
        tries = f"{self.failures} tries" if self.failures > 1 else "1 try"
        return f"{how} after {tries}: {last_line(self.log)} ({self.log})"

    def _what_follows(self, code: int) -> Standing:
        if code == 0:
            return "done"
        if code == NonFiniteError.exit_code:
            return "diverged"
        if self._asked_to_stop:
            return "stopped"
        if code == ResumeError.exit_code and _is_locked(self.run):
            return "in use"
        if code in SAVED and self._saved() > self._saved_before:
            return "preempted"
        self.failures += 1
        return "failed" if code in FINAL or self.failures >= self.tries_allowed else "waiting"

    def _saved(self) -> int:
        """The newest step that has a checkpoint, -1 without one."""
        return max(checkpoints.steps(self.run.checkpoints), default=-1)


def claim(run: Run) -> IO[str] | None:
    """Hold a run for this sweep until the file is closed; None where another sweep has it.

    The run's own lock is its process's, which takes it only when it has begun, seconds after it was started.
    """
    run.root.mkdir(parents=True, exist_ok=True)
    return hold(run.root / ".sweep")


def last_line(log: Path) -> str:
    """The last line that a process wrote, without the command's name before it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").split("\n")
    written = [line.strip() for line in lines if line.strip()]
    last = written[-1] if written else ""
    return "nothing was written" if last.startswith("=== ") or not last else last.removeprefix("sinkpretrain: ")


def _is_locked(run: Run) -> bool:
    try:
        with run.lock():
            return False
    except ResumeError:
        return True
