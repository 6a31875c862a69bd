"""Validation loss over the same fixed windows each time."""

import math

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from sinkpretrain.data.windows import IGNORED
from sinkpretrain.model.llama import next_token_loss, perplexity
from sinkpretrain.training.callbacks.base import StepCallback, is_due
from sinkpretrain.training.module import PretrainModule
from sinkpretrain.training.sharding import whole


class Validation(StepCallback):
    """Writes `val/loss` (nats a token), `val/perplexity` and `val/bits_per_byte`.

    All three come from one sum of negative log-likelihoods, over counted targets or over the text bytes these stand
    for (a separator stands for none). Sums and counts are added up over batches and ranks, and divided last.
    """

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Validate the untrained model; a resumed one was validated before."""
        if module.step == 0:
            module.row |= self.measure(trainer, module)

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Validate at the cadence and at the last step."""
        if is_due(module.step, module.config.validation.every, module.config.steps):
            module.row |= self.measure(trainer, module)

    @torch.no_grad()
    def measure(self, trainer: L.Trainer, module: PretrainModule) -> dict[str, float]:
        """The three values of the model as it stands."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        token_bytes = torch.from_numpy(datamodule.store.token_bytes.astype("int64")).to(module.device)
        sums = torch.zeros(3, dtype=torch.float64, device=module.device)  # nats, targets, bytes
        model = whole(module.model).eval()
        batches = datamodule.validation_batches(
            module.config.validation.windows, trainer.global_rank, trainer.world_size
        )
        for batch in batches:
            batch = move_data_to_device(batch, module.device)
            with trainer.precision_plugin.forward_context():
                logits_BTV = model(batch.tokens_BT, batch.document_BT)
            counted = batch.targets_BT[batch.targets_BT != IGNORED]
            sums[0] += next_token_loss(logits_BTV, batch.targets_BT)
            sums[1] += counted.numel()
            sums[2] += token_bytes[counted].sum()
        model.train()
        nats, targets, text_bytes = module.all_reduce(sums).tolist()
        loss = nats / targets
        return {
            "val/loss": loss,
            "val/perplexity": perplexity(loss),
            "val/bits_per_byte": nats / math.log(2) / text_bytes,
        }
