"""A process that ends the runs of a sweep that was killed and could not do so itself.

`python -m sinkpretrain.comparison.guard` reads `+PID` and `-PID`, the runs that begin and end, on stdin. When stdin
ends because the sweep is gone, it asks those that are left to save, and kills them after a while.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

GRACE_SECONDS = 60.0  # for a run to save


class Guard:
    """That process, for as long as the `with` block lasts."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sinkpretrain.comparison.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def watch(self, pid: int) -> None:
        """A run has begun; it leads a process group of its own."""
        self._tell(f"+{pid}")

    def forget(self, pid: int) -> None:
        """It has ended."""
        self._tell(f"-{pid}")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # someone killed the guard: the sweep does without
            print(line, file=self._process.stdin, flush=True)


def main() -> None:
    """Follow stdin to its end, then end what is left."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    left: set[int] = set()
    for line in sys.stdin:
        (left.add if line[0] == "+" else left.discard)(int(line[1:]))
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = {pid for pid in left if _is_alive(pid)}
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
