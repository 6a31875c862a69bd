"""Checkpoints at a cadence, at the last step, and when a signal asks the run to stop."""

import signal
import types
from typing import Any

import lightning as L

from sinkpretrain import checkpoints
from sinkpretrain.errors import Interrupted, Preempted
from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback, is_due
from sinkpretrain.training.callbacks.run_record import RunRecord
from sinkpretrain.training.module import PretrainModule


class Checkpointing(StepCallback):
    """Writes `checkpoints/step_NNNNNNNN`, after the record of that step.

    SIGTERM, SIGUSR1 and SIGINT set a flag; at the end of the step the run is saved and `Preempted` or `Interrupted`
    raised. A second signal of the kind ends the process at once.
    """

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, run: Run, record: RunRecord) -> None:
        self.run = run
        self.record = record
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Take over the signals; Lightning's own handlers come back at the end."""
        self._before = {number: signal.signal(number, self._receive) for number in self.signals}

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Save where it is due or asked for."""
        stop = bool(trainer.strategy.reduce_boolean_decision(self.received is not None, all=False))
        done = module.step == module.config.steps
        if stop or is_due(module.step, module.config.checkpoints.every, module.config.steps):
            self.save(trainer, module)
        if stop and not done:
            error = Interrupted if self.received == signal.SIGINT else Preempted
            raise error(
                f"{self.run.root}: stopped by {self.received.name if self.received else 'another rank'} and saved at "
                f"step {module.step}; go on with: sinkpretrain train --resume {self.run.root}"
            )

    def save(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Write the checkpoint on rank 0; the other ranks wait for it."""
        if trainer.is_global_zero:
            checkpoints.write(
                self.run.checkpoints,
                module.step,
                module.model.state_dict(),
                trainer.optimizers[0].state_dict(),
                {"tokens": module.tokens, "seconds": self.record.seconds},
                keep=module.config.checkpoints.keep,
            )
        trainer.strategy.barrier("checkpoint")

    def on_end(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)
