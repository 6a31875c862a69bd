"""The run record: one line of metrics.jsonl a step that has something to say, and the run's state."""

import math
import time
from collections.abc import Mapping
from typing import Any

import lightning as L

from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule


class RunRecord(StepCallback):
    """Writes `module.row` with step, tokens and seconds, leaves it as `module.line`, keeps status.json current.

    `facts` (parameters, operations a token, the device's peak) go to status.json once. `seconds` counts the wall time
    of training, validation and probes, over all processes that worked on the run.
    """

    def __init__(self, run: Run, facts: Mapping[str, Any], seconds_before: float = 0.0) -> None:
        self.run = run
        self.facts = facts
        self.seconds_before = seconds_before
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return self.seconds_before + time.perf_counter() - self.started

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the run's facts, and what validation and probes said of the untrained model."""
        if trainer.is_global_zero:
            self.run.write_status("running", **self.facts)
        self.on_step(trainer, pl_module)  # type: ignore[arg-type]

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Write the row, if there is one; every rank forgets it."""
        row, module.row, module.line = module.row, {}, {}
        if not row or not trainer.is_global_zero:
            return
        line = {"step": module.step, "tokens": module.tokens, "seconds": round(self.seconds, 3), **row}
        self.run.append_metrics(line)
        names = ("train/loss", "val/loss", "perf/tokens_per_s")
        latest = {name: row[name] for name in names if math.isfinite(row.get(name, math.nan))}  # JSON has no NaN
        self.run.write_status("running", step=module.step, steps=module.config.steps, seconds=line["seconds"], **latest)
        module.line = line
