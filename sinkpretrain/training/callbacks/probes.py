"""Sink metrics during training: one pass over held-out windows serves all of them."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from torch import Tensor

from sinkpretrain.data.windows import Batch
from sinkpretrain.probing import Probe
from sinkpretrain.records import about_held_out
from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback, is_due
from sinkpretrain.training.module import PretrainModule
from sinkpretrain.training.sharding import whole


class Probes(StepCallback):
    """Runs the metrics of `probes.metrics` at steps 0, 1, 2, 4, 8, ... and at a cadence.

    Arrays by layer, head and position go to `probes/step_NNNNNNNN.npz`, their summaries into the row.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Probe the untrained model."""
        if module.step == 0:
            self.measure(trainer, module)

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Probe where it is due."""
        probes = module.config.probes
        log_spaced = probes.log_spaced and module.step & (module.step - 1) == 0
        if log_spaced or is_due(module.step, probes.every, module.config.steps):
            self.measure(trainer, module)

    def measure(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Run the metrics and record them."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]

        def reduce(sums: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: module.all_reduce(value) for name, value in sums.items()}

        def held_out(sequences: int) -> Iterator[Batch]:
            there_are = len(datamodule.validation_windows)
            batches: Iterator[Batch] = datamodule.validation_batches(min(sequences, there_are))
            return batches

        probe = Probe(
            module.config.probes.metrics,
            held_out=held_out,
            sequences=module.config.probes.windows,
            batch_size=module.config.micro_batch_size,
            separator=datamodule.store.separator,
            token_text=datamodule.store.token_text,
        )
        result = probe.run(whole(module.model), rank=trainer.global_rank, world=trainer.world_size, reduce=reduce)
        module.row |= result.scalars
        if trainer.is_global_zero:
            self.run.write_probe(module.step, result.arrays, about_held_out(module.config))
