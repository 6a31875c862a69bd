"""How far something is: a bar on a terminal, a line every few seconds elsewhere; always on stderr."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 10.0  # seconds


def progress_text(values: Mapping[str, float]) -> str:
    """The losses and the speed among these values, for a progress display."""
    shown = {"train/loss": "train {:.3f}", "val/loss": "val {:.3f}", "perf/tokens_per_s": "{:,.0f} tokens/s"}
    return "  ".join(text.format(values[name]) for name, text in shown.items() if name in values)


class Display:
    """Shows how many of `total` are done (None: nobody knows); use it in a `with` block."""

    def __init__(self, title: str, total: int | None, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self._started = self._shown = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif error is None:
            self._print()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return max(time.monotonic() - self._started, 1e-9)

    def advance(self, more: int) -> None:
        """Some more are done."""
        self.done += more
        if self._bar:
            self._bar.update(self._task, completed=self.done, description=self.beside_bar())
        elif time.monotonic() - self._shown >= LINE_EVERY:
            self._print()

    def beside_bar(self) -> str:
        """What stands beside the bar."""
        return self.title

    def line(self) -> str:
        """What stands in a line without a bar."""
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{self.title}: {self.done:,}{of}, {self.seconds:.0f} s"

    def _print(self) -> None:
        self._shown = time.monotonic()
        print(self.line(), file=sys.stderr, flush=True)
