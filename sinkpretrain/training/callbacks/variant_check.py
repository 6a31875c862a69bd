"""Before the first step: the attention that trains is the one that the configuration names."""

import lightning as L
from lightning.fabric.utilities.apply_func import move_data_to_device

from sinkpretrain.model.self_check import refuse_ignored_variant
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule


class VariantCheck(StepCallback):
    """Holds the fast path against the explicit definition on a training window, on this device, in this precision."""

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Raise where they differ; at the start and after every resume."""
        windows = trainer.datamodule.train_windows  # type: ignore[attr-defined]
        batch = move_data_to_device(windows.batch(windows.ids(module.step, 1)), module.device)
        with trainer.precision_plugin.forward_context():
            refuse_ignored_variant(module.model, batch)
