"""How far an evaluation is: a bar on a terminal, a line every few seconds elsewhere; always on stderr."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 10.0  # seconds


class Display:
    """Shows how many of `total` are done; use it in a `with` block."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self._printed: int | None = None
        self._started = self._shown = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total)

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif error is None and self._printed != self.done:
            self._print()

    def advance(self, more: int) -> None:
        """Some more are done."""
        self.done += more
        if self._bar:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._shown >= LINE_EVERY:
            self._print()

    def _print(self) -> None:
        self._shown, self._printed = time.monotonic(), self.done
        seconds = self._shown - self._started
        print(f"{self.title}: {self.done:,} of {self.total:,}, {seconds:.0f} s", file=sys.stderr, flush=True)
