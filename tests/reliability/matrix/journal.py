"""What a training process was doing, written down by itself, so that one knows where a SIGKILL met it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sinkpretrain import checkpoints
from sinkpretrain.training.callbacks.run_record import RunRecord

BEGUN, RESTORED, TRAINING, SAVING, SAVED = "begun", "restored", "training", "saving", "saved"


class Journal:
    """A line `<what> <step>` for each process that begins, restores, trains, begins a save, ends a save."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = ""  # that this process wrote

    def entries(self) -> list[tuple[str, int]]:
        """What happened, and the step of it; oldest first."""
        if not self.path.exists():
            return []
        pairs = (line.split() for line in self.path.read_text().splitlines())
        return [(what, int(step)) for what, step in pairs]

    def keep(self) -> None:
        """Let this process write from now on."""
        self._descriptor = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._note(BEGUN, 0)
        checkpoints.write, checkpoints.read = self._writing(checkpoints.write), self._reading(checkpoints.read)
        RunRecord.on_train_start = self._starting(RunRecord.on_train_start)  # type: ignore[method-assign]

    def _note(self, what: str, step: int) -> None:
        self.last = what
        os.write(self._descriptor, f"{what} {step}\n".encode())

    def _writing(self, write: Callable[..., Path]) -> Callable[..., Path]:
        def written(folder: Path, checkpoint: checkpoints.Checkpoint, keep: int) -> Path:
            self._note(SAVING, checkpoint.step)
            target = write(folder, checkpoint, keep)
            self._note(SAVED, checkpoint.step)
            return target

        return written

    def _reading(self, read: Callable[..., checkpoints.Checkpoint]) -> Callable[..., checkpoints.Checkpoint]:
        def restored(*arguments: Any) -> checkpoints.Checkpoint:
            found = read(*arguments)
            self._note(RESTORED, found.step)
            return found

        return restored

    def _starting(self, on_train_start: Callable[..., None]) -> Callable[..., None]:
        def started(record: RunRecord, trainer: Any, module: Any) -> None:
            self._note(TRAINING, module.step)
            on_train_start(record, trainer, module)

        return started
