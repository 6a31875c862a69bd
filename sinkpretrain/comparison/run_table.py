"""The runs of a sweep as they go: a live table on a terminal, plain lines elsewhere; always on stderr."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sinkpretrain.comparison.attempts import Attempts, Standing
from sinkpretrain.progress import progress_text

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_TABLES = 0.5
LINES_BESIDE_ROWS = 4  # the heading, what is not shown, the counts, and the cursor's
# Which runs are shown first where not all fit.
ORDER: tuple[Standing, ...] = ("running", "failed", "diverged", "in use", "preempted", "stopped", "waiting", "done")


class RunTable:
    """Shows where runs stand; use it in a `with` block and call `show` often."""

    def __init__(self, runs: Sequence[Attempts], console: Console | None = None) -> None:
        self.runs = runs
        self.console = console or Console(stderr=True)
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._said = {run.member.folder: "waiting" for run in runs}
        self._last_line = time.monotonic()
        self._last_drawn = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self.show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show(now=True)
        if self._live:
            self._live.stop()
        else:
            self._print(counts(self.runs))

    def show(self, *, now: bool = False) -> None:
        """Show the present: the table anew, or lines for what changed, and now and then where each run stands."""
        if self._live:
            if now or time.monotonic() - self._last_drawn >= SECONDS_BETWEEN_TABLES:
                self._last_drawn = time.monotonic()
                self._live.update(render(self.runs, self.console.size.height), refresh=True)
            return
        for run in self.runs:
            if run.note != self._said[run.member.folder]:
                self._said[run.member.folder] = run.note
                self._print(_change(run))
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            for run in self.runs:
                if run.standing == "running":
                    self._print(_progress(run))
            self._print(counts(self.runs))

    def say(self, text: str) -> None:
        """A line of its own."""
        self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True, markup=False, highlight=False)


def render(runs: Sequence[Attempts], height: int) -> Table:
    """A row a run, as many as fit into so many lines: those that are running first."""
    table = Table(box=None, pad_edge=False, caption_justify="left", padding=(0, 2, 0, 0))
    table.add_column("run", overflow="ellipsis", min_width=8)
    table.add_column("state", no_wrap=True)
    for name in ("step", "train", "val", "tok/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("on", no_wrap=True)
    shown = _that_fit(runs, max(1, height - LINES_BESIDE_ROWS))
    for run in shown:
        table.add_row(*_cells(run))
    hidden = [run for run in runs if run not in shown]
    more = f"and {len(hidden)} more: {counts(hidden)}\n" if hidden else ""
    table.caption = more + counts(runs)
    return table


def counts(runs: Sequence[Attempts]) -> str:
    """`2 of 12 done, 2 running, 8 waiting`."""
    found = Counter(run.standing for run in runs)
    rest = [f"{found[standing]} {standing}" for standing in ORDER if found[standing] and standing != "done"]
    return ", ".join([f"{found['done']} of {len(runs)} done", *rest])


def time_text(seconds: float | None) -> str:
    """`1:02:03`, or `2d 03h`; empty where nobody knows."""
    if seconds is None:
        return ""
    if seconds >= 86_400:
        return f"{seconds // 86_400:.0f}d {seconds % 86_400 // 3600:02.0f}h"
    return str(timedelta(seconds=round(seconds)))


def _that_fit(runs: Sequence[Attempts], rows: int) -> list[Attempts]:
    chosen = sorted(runs, key=lambda run: ORDER.index(run.standing))[:rows]
    return [run for run in runs if run in chosen]


def _cells(run: Attempts) -> list[str]:
    status, running = run.status(), run.standing == "running"
    steps = status.get("steps", run.member.config.steps)
    losses = [f"{status[name]:.3f}" if name in status else "" for name in ("train/loss", "val/loss")]
    speed = status.get("perf/tokens_per_s") if running else None
    left = run.seconds_left(status) if running else None
    place = str(run.slot) if running and run.slot else ""
    return [
        run.member.folder,
        run.note,
        f"{status.get('step', 0)}/{steps}",
        *losses,
        _speed(speed),
        time_text(left),
        place,
    ]


def _speed(tokens_per_s: float | None) -> str:
    if tokens_per_s is None:
        return ""
    return f"{tokens_per_s:,.0f}" if tokens_per_s < 1e6 else f"{tokens_per_s / 1e6:.2f}M"


def _change(run: Attempts) -> str:
    where = f" on {run.slot}, log {run.log}" if run.standing == "running" else ""
    why = {"in use": ": another sweep or process is working on it", "preempted": ": goes on from its checkpoint"}
    because = why.get(run.standing, "")
    if run.standing == "failed" or (run.standing == "waiting" and run.failures):
        because = f": {run.why()}"
    status = run.status() if run.standing in ("done", "diverged", "stopped") else {}
    return f"{run.member.folder}: {run.note}{where}{because}{_at(status)}"


def _progress(run: Attempts) -> str:
    status: dict[str, Any] = run.status()
    left = time_text(run.seconds_left(status))
    return f"{run.member.folder}:{_at(status) or ' starts'}{f', {left} left' if left else ''}"


def _at(status: dict[str, Any]) -> str:
    if "step" not in status:
        return ""
    return f" at step {status['step']}/{status.get('steps', '?')}  {progress_text(status)}".rstrip()
