"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sinkpretrain.progress import progress_text
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay(StepCallback):
    """Shows steps, the last losses and tokens a second, on rank 0."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.latest: dict[str, float] = {}
        self.bar: Progress | None = None
        self._last_line = 0.0

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Open the bar where there is a terminal."""
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = (TextColumn(self.label), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"))
            self.bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self.bar.add_task("", total=module.config.steps, completed=module.step, values="")
            self.bar.start()
        self._show(trainer, module)

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Show where the run stands."""
        self._show(trainer, module)

    def on_end(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()

    def _show(self, trainer: L.Trainer, module: PretrainModule) -> None:
        if not trainer.is_global_zero:
            return
        self.latest |= module.line
        values = progress_text(self.latest)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=module.step, values=values)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or module.step == module.config.steps:
            self._last_line = now
            print(f"{self.label}  step {module.step}/{module.config.steps}  {values}", file=sys.stderr, flush=True)
