"""Starts the processes of one run on this machine and sees to it that they end together; no torch.

Each rank holds one end of a socket whose other end is the supervisor's alone: a rank says there in a line of JSON what
the supervisor should know, and ends itself when the socket closes, so that none outlives the supervisor.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from sinkpretrain.errors import Interrupted, Preempted, ResumeError
from sinkpretrain.runs import Run

SOCKET = "SINKPRETRAIN_SUPERVISOR"  # environment variable: the file descriptor of a rank's end
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
POLL = 0.05  # seconds
GRACE = 15.0  # seconds that the other ranks get to find out for themselves that one has failed
GRACE_TOLD = 5.0  # seconds that they get where it has said why: they know, or will not any more
GRACE_DONE = 60.0  # seconds that they get where one has ended as it should
GRACE_ASKED = 5.0  # seconds from SIGTERM to SIGKILL
ENDED_WELL = (0, Preempted.exit_code, Interrupted.exit_code)
SAME_SIGNAL = 1.0  # seconds within which the same signal is one request: a terminal and a launcher may both send it


def supervise(arguments: Sequence[str], ranks: int) -> int:
    """Run `sinkpretrain` with these arguments as so many ranks; the exit code.

    Signals go on to the ranks, which save and exit; the same signal again, later, kills them. A rank that fails is
    named on stderr, and in status.json where the run could not record its own end; the others are stopped.
    """
    with _reserved_port() as port:
        started = [_Rank(arguments, rank, ranks, port) for rank in range(ranks)]
        watch = _Watch(started)
        before = {number: signal.signal(number, watch.receive) for number in SIGNALS}
        try:
            return watch.until_the_end()
        finally:
            watch.kill()
            for number, handler in before.items():
                signal.signal(number, handler)


def is_supervised() -> bool:
    """Whether this process is a rank that `supervise` started."""
    return SOCKET in os.environ


def follow_supervisor() -> None:
    """Let this rank, and its children, end when its supervisor does, however that comes; once, early, in each rank."""
    if not is_supervised():
        return
    if sys.platform == "linux":  # also when this process is stopped
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    end = socket.socket(fileno=os.dup(int(os.environ[SOCKET])))

    def wait() -> None:
        while end.recv(1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="supervisor").start()


def tell(**message: Any) -> None:
    """Say something to the supervisor, if there is one: `run` (the folder that is this run's now) or `error`."""
    if is_supervised():
        os.write(int(os.environ[SOCKET]), (json.dumps(message, default=str) + "\n").encode())


class _Rank:
    """One process: a session of its own, so that a terminal's Ctrl-C reaches it through the supervisor alone."""

    def __init__(self, arguments: Sequence[str], rank: int, ranks: int, port: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.told: dict[str, Any] = {}
        self.forced = False  # whether it was killed by the supervisor
        self._end, theirs = socket.socketpair()
        self._text = b""
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        variables = {name: str(value) for name, value in place.items()}
        variables |= {"MASTER_ADDR": "127.0.0.1", SOCKET: str(theirs.fileno())}
        threads = max(1, len(os.sched_getaffinity(0)) // ranks) if hasattr(os, "sched_getaffinity") else 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sinkpretrain", *arguments],
            # torch's own warnings about a lost rank are stack traces in C++.
            env={"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, **variables},
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        self._end.setblocking(False)

    @property
    def code(self) -> int | None:
        """Exit code, minus the number of the signal that ended it; None while it runs."""
        return self.process.poll()

    def listen(self) -> None:
        """Take in what the rank said."""
        with suppress(OSError):  # nothing more for now
            while received := self._end.recv(1 << 16):
                self._text += received
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            self.told |= json.loads(line)

    def kill(self) -> None:
        """End the rank and its children now."""
        self.forced |= self.code is None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __str__(self) -> str:
        """How it ended."""
        assert self.code is not None
        if self.forced:
            return f"rank {self.rank} did not stop when asked and was killed"
        how = (
            f"was ended by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with exit code {self.code}"
        )
        return f"rank {self.rank} of {self.ranks} {how}"


class _Watch:
    """Waits for ranks to end, passes signals on, stops the rest when one has failed."""

    def __init__(self, ranks: list[_Rank]) -> None:
        self.ranks = ranks
        self.ended: list[_Rank] = []  # as they did; of two that did at once the one that failed comes first
        self.asked: signal.Signals | None = None  # by the signal that arrived first
        self._received: dict[int, float] = {}

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on; the second of a kind kills."""
        now = time.monotonic()
        first = self._received.setdefault(number, now)
        if first == now:
            self.asked = self.asked or signal.Signals(number)
            self._send(number)
        elif now - first > SAME_SIGNAL:
            self.kill()

    def until_the_end(self) -> int:
        """Wait for all; the exit code."""
        deadline, stop = float("inf"), self._ask
        while len(self.ended) < len(self.ranks):
            time.sleep(POLL)
            for rank in self.ranks:
                rank.listen()
            news = [rank for rank in self.ranks if rank not in self.ended and rank.code is not None]
            self.ended += sorted(news, key=lambda rank: rank.code in ENDED_WELL)
            deadline = min([deadline, *(time.monotonic() + grace for rank in news if (grace := self._grace(rank)))])
            if time.monotonic() > deadline:
                stop()
                deadline, stop = time.monotonic() + GRACE_ASKED, self.kill
        return self._conclude()

    def kill(self) -> None:
        """End at once what still runs of the ranks and their children."""
        for rank in self.ranks:
            if rank.code not in ENDED_WELL:
                rank.kill()

    def _ask(self) -> None:
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for rank in self.ranks:
            if rank.code is None:
                rank.process.send_signal(number)

    @staticmethod
    def _grace(rank: _Rank) -> float | None:
        """How long the others may go on after a rank has ended; None: for as long as they need."""
        if rank.code not in ENDED_WELL:
            return GRACE_TOLD if "error" in rank.told else GRACE
        return GRACE_DONE if rank.rank == 0 else None

    def _conclude(self) -> int:
        """Say what went wrong, record it where the run did not; the exit code."""
        failed = [rank for rank in self.ended if rank.code not in ENDED_WELL and not rank.forced]
        first = failed[0] if failed else self.ranks[0]
        assert first.code is not None
        code = first.code if first.code > 0 else int(bool(first.code))
        if self.asked is not None and first.code == -self.asked:  # before the run could take the signal
            code = Interrupted.exit_code if self.asked == signal.SIGINT else Preempted.exit_code
        sentence = self._sentence(first)
        ends = {(rank.code, rank.told.get("error")) for rank in self.ranks}
        is_told = len(ends) == 1 and ends != {(1, None)}  # rank 0 said why
        if code not in ENDED_WELL and not is_told:
            print(f"sinkpretrain: {sentence}", file=sys.stderr)
        self._record("preempted" if code in ENDED_WELL else "failed", sentence)
        return code

    def _sentence(self, first: _Rank) -> str:
        others = [str(rank) for rank in self.ranks if rank.forced and rank is not first]
        why = f" ({first.told['error']})" if "error" in first.told else ""
        return f"{first}{why}; {'; '.join(others) or 'the other ranks were stopped'}; see above"

    def _record(self, state: Literal["preempted", "failed"], sentence: str) -> None:
        """Write the run's end into status.json, if a rank had begun it and could not."""
        folders = [Path(rank.told["run"]) for rank in self.ranks if "run" in rank.told]
        for run in map(Run, folders):
            try:
                with run.lock():
                    if run.status().get("state") == "running":
                        run.write_status(state, **({"error": sentence} if state == "failed" else {}))
            except ResumeError:
                continue  # another process goes on with it


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port of this machine; it stays bound here, so that nobody else is given it before rank 0 listens there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
