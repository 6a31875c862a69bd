"""Where this rank is in training, for the other ranks to know."""

from collections.abc import Callable

import lightning as L

from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule
from sinkpretrain.training.peers import BACKWARD, BETWEEN, FORWARD, Progress


class Presence(StepCallback):
    """Calls `mark` at each phase of each micro-batch."""

    def __init__(self, mark: Callable[[Progress], None]) -> None:
        self.mark = mark
        self._micro_batch = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Lightning's hook."""
        self._mark(pl_module, FORWARD)  # type: ignore[arg-type]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Lightning's hook."""
        self._mark(pl_module, BACKWARD)  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Lightning's hook: the callbacks after this one act between steps."""
        self._micro_batch += 1
        self._mark(pl_module, BETWEEN)  # type: ignore[arg-type]

    def _mark(self, module: PretrainModule, phase: int) -> None:
        self.mark(Progress(module.step, self._micro_batch, phase))
