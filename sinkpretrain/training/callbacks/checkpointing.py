"""Checkpoints at a cadence, at the last step, and when a signal asks the run to stop."""

import lightning as L
import torch

from sinkpretrain import checkpoints
from sinkpretrain.checkpoints import Checkpoint
from sinkpretrain.errors import NonFiniteError
from sinkpretrain.files import so_far
from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback, is_due
from sinkpretrain.training.callbacks.run_record import RunRecord
from sinkpretrain.training.callbacks.stop_signals import StopSignals
from sinkpretrain.training.module import PretrainModule
from sinkpretrain.training.randomness import random_states
from sinkpretrain.training.sharding import gathered, weights


class Checkpointing(StepCallback):
    """Writes `checkpoints/step_NNNNNNNN`, after the record of that step.

    Where a signal has asked any rank to stop, the run is saved at the end of the step and `Preempted` or `Interrupted`
    raised.
    """

    def __init__(self, run: Run, record: RunRecord, signals: StopSignals) -> None:
        self.run, self.record, self.signals = run, record, signals

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Stop before the first step, if that was asked for while the model was built and validated."""
        if stop := self.signals.agreed(trainer):
            raise self.signals.stopped(stop, f"before a step was made from step {module.step}")

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Save where it is due or asked for."""
        stop = self.signals.agreed(trainer)
        done = module.step == module.config.steps
        if stop or is_due(module.step, module.config.checkpoints.every, module.config.steps):
            self.save(trainer, module)
        if stop and not done:
            raise self.signals.stopped(stop, f"and saved at step {module.step}")

    def save(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Write the checkpoint on rank 0, tensors whole; the other ranks wait for it.

        Raises:
            NonFiniteError: a weight or a moment of the optimizer is not finite; nothing is written.
            DiskFullError: there is no room.
        """
        model, optimizer = gathered([weights(module.model), trainer.optimizers[0].state_dict()])
        checkpoint = Checkpoint(
            step=module.step,
            model=model,
            optimizer=optimizer,
            random={name: module.of_all_ranks(state).cpu() for name, state in random_states().items()},
            state={
                "run": self.run.created(),
                "record": so_far(self.run.metrics_path),
                "tokens": module.tokens,
                "seconds": self.record.seconds,
                "guard": module.guard.state,
            },
        )
        _refuse_poisoned(checkpoint, module.device)
        if trainer.is_global_zero:
            self.run.sync()
            checkpoints.write(self.run.checkpoints, checkpoint, keep=module.config.checkpoints.keep)
        trainer.strategy.barrier("checkpoint")


def _refuse_poisoned(checkpoint: Checkpoint, device: torch.device) -> None:
    """Raise where a tensor holds NaN or infinity, on all ranks alike, naming the first."""
    finite = [tensor.isfinite().all().to(device) for tensor in checkpoint.tensors()]
    if torch.stack(finite).all():  # one wait for the device
        return
    named = [f"weight {name}" for name, tensor in checkpoint.model.items() if not tensor.isfinite().all()]
    what = named[0] if named else "AdamW's state"
    raise NonFiniteError(
        f"step {checkpoint.step}: {what} is not finite; this step is not saved, the checkpoints before it are whole. "
        "Lower optimizer.learning_rate, or set optimizer.clip"
    )
