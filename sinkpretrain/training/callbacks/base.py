"""The base of the callbacks: they count optimizer steps, never micro-batches."""

from abc import ABC
from typing import Any

import lightning as L

from sinkpretrain.training.module import PretrainModule


class StepCallback(L.Callback, ABC):
    """Calls `on_start` before the first update of this process, `on_step` after every update, `on_end` in any case."""

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Before the first update; `module.step` is 0, or the step resumed from."""

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """After an update; `module.step` counts it."""

    def on_end(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """After the last update, or after an exception; may be called twice."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Lightning's hook."""
        self.on_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Lightning's hook, after each micro-batch."""
        if pl_module.step_just_finished:
            self.on_step(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Lightning's hook; it is left out after an exception."""
        self.on_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Lightning's hook."""
        self.on_end(trainer, pl_module)


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps, and at the last, happens now."""
    return step % every == 0 or step == last
