"""Checkpoints at a cadence, at the last step, and when a signal asks the run to stop."""

import signal

import lightning as L

from sinkpretrain import checkpoints
from sinkpretrain.errors import Interrupted, Preempted
from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback, is_due
from sinkpretrain.training.callbacks.run_record import RunRecord
from sinkpretrain.training.callbacks.stop_signals import StopSignals
from sinkpretrain.training.module import PretrainModule
from sinkpretrain.training.sharding import gathered, weights


class Checkpointing(StepCallback):
    """Writes `checkpoints/step_NNNNNNNN`, after the record of that step.

    Where a signal has asked any rank to stop, the run is saved at the end of the step and `Preempted` or `Interrupted`
    raised.
    """

    def __init__(self, run: Run, record: RunRecord, signals: StopSignals) -> None:
        self.run, self.record, self.signals = run, record, signals

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Save where it is due or asked for."""
        stop = self.signals.agreed(trainer)
        done = module.step == module.config.steps
        if stop or is_due(module.step, module.config.checkpoints.every, module.config.steps):
            self.save(trainer, module)
        if stop and not done:
            error = Interrupted if stop == signal.SIGINT else Preempted
            raise error(
                f"{self.run.root}: stopped by {stop.name} and saved at step {module.step}; go on with: sinkpretrain "
                f"train --resume {self.run.root}"
            )

    def save(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Write the checkpoint on rank 0, tensors whole; the other ranks wait for it."""
        model, optimizer = gathered([weights(module.model), trainer.optimizers[0].state_dict()])
        if trainer.is_global_zero:
            checkpoints.write(
                self.run.checkpoints,
                module.step,
                model,
                optimizer,
                {"tokens": module.tokens, "seconds": self.record.seconds},
                keep=module.config.checkpoints.keep,
            )
        trainer.strategy.barrier("checkpoint")
