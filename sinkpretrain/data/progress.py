"""How far a preparation is: a bar on a terminal, a line every few seconds elsewhere; always on stderr."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

LINE_EVERY = 5.0  # seconds


class Display:
    """Shows documents, megabytes (10^6 bytes) and the speed since this process began; use it in a `with` block."""

    def __init__(self, title: str, total_documents: int | None, done_documents: int = 0) -> None:
        self._title, self._total = title, total_documents
        self._documents, self._bytes = done_documents, 0
        self._started = self._shown = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total_documents, completed=done_documents)

    def __enter__(self) -> "Display":
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

    def advance(self, documents: int, text_bytes: int) -> None:
        """Some more documents are done."""
        self._documents += documents
        self._bytes += text_bytes
        if self._bar:
            self._bar.update(self._task, completed=self._documents, description=self._line())
        elif time.monotonic() - self._shown >= LINE_EVERY:
            self._print()

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        megabytes = self._bytes / 1e6
        of = f" of {self._total:,}" if self._total else ""
        return f"{self._title}: {self._documents:,}{of} documents, {megabytes:,.1f} MB, {megabytes / seconds:.2f} MB/s"

    def _print(self) -> None:
        self._shown = time.monotonic()
        print(self._line(), file=sys.stderr, flush=True)
