"""The LightningModule: one Llama, its loss, its optimizer; it counts optimizer steps and says no to non-finite ones."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from sinkpretrain.config import Config
from sinkpretrain.data.windows import IGNORED, Batch
from sinkpretrain.errors import NonFiniteError, SinkpretrainError
from sinkpretrain.model.llama import Llama, next_token_loss
from sinkpretrain.training.optimizer import build_optimizer, learning_rate
from sinkpretrain.training.sharding import gathered, is_sharded, scattered, shard

WINDOWS_NAMED = 8  # in the message about a non-finite loss


class PretrainModule(L.LightningModule):
    """Pretraining of one model.

    `step` counts the updates done; `row` gathers the next line of the run record, `line` is the one just written.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Llama(config.model, config.seed)
        self.step = 0
        self.step_just_finished = False
        self.row: dict[str, float] = {}
        self.line: dict[str, float] = {}
        self.grad_norm = torch.zeros(())
        self._nll = torch.zeros((), dtype=torch.float64)
        self._counted = torch.zeros((), dtype=torch.int64)
        self.resumed_optimizer: dict[str, Any] | None = None

    @property
    def tokens(self) -> int:
        """Input tokens seen, over all devices."""
        return self.step * self.config.tokens_per_step

    def configure_model(self) -> None:
        """Divide the model over the devices, where the strategy is a sharded one."""
        if self.device_mesh is not None and not is_sharded(self.model):
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its learning rate is set at each step."""
        optimizer = build_optimizer(self.model, self.config.optimizer)
        if self.resumed_optimizer is not None:
            optimizer.load_state_dict(scattered(self.resumed_optimizer, optimizer))
            self.resumed_optimizer = None
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """A new micro-batch: no step has finished yet."""
        self.step_just_finished = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The summed loss of a micro-batch over its number of positions.

        The divisor is the same for every micro-batch and rank, so that their mean is the loss of the global batch
        however it is divided, also where some targets do not count.
        """
        nll = next_token_loss(self.model(batch.tokens_BT, batch.document_BT), batch.targets_BT)
        self._nll = self._nll.to(nll.device) + nll.detach()
        self._counted = self._counted.to(nll.device) + (batch.targets_BT != IGNORED).sum()
        return nll / batch.targets_BT.numel()

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Refuse a missing gradient, measure the norm of the whole one, refuse a non-finite one, clip."""
        self._refuse_unused()
        clip = self.config.optimizer.clip
        self.grad_norm = gathered(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip or float("inf")))
        # Under fp16 the gradient scaler meets overflows as a matter of course and skips their updates itself.
        judged = self.all_reduce(self._nll.clone()) if self.config.precision == "fp16" else self.grad_norm
        if not torch.isfinite(judged):
            self._refuse_step()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """One update at this step's learning rate."""
        rate = learning_rate(self.step, self.config.steps, self.config.optimizer.learning_rate, self.config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.step += 1
        self.step_just_finished = True
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self.row |= {"train/loss": self._mean_loss(), "optim/lr": rate, "optim/grad_norm": float(self.grad_norm)}
        self._nll = torch.zeros_like(self._nll)
        self._counted = torch.zeros_like(self._counted)

    def _mean_loss(self) -> float:
        """Mean loss of the step in nats a counted target, over all ranks."""
        sums = self.all_reduce(torch.stack([self._nll, self._counted.double()]))
        return float(sums[0] / sums[1])

    def all_reduce(self, sums: Tensor) -> Tensor:
        """A tensor of sums added up over the ranks."""
        reduced: Tensor = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return reduced

    def _refuse_unused(self) -> None:
        """Raise where the loss does not depend on a parameter; DDP would say so later, and without its name."""
        unused = [name for name, of in self.model.named_parameters() if of.requires_grad and of.grad is None]
        if unused:
            raise SinkpretrainError(
                f"{', '.join(unused)}: no gradient came, the loss does not depend on it; let the forward pass use it, "
                "or take it out of the model"
            )

    def _refuse_step(self) -> None:
        ids = self.trainer.datamodule.train_windows.ids(self.step, self.config.global_batch_size)  # type: ignore[attr-defined]
        shown = ", ".join(map(str, ids[:WINDOWS_NAMED])) + (", ..." if len(ids) > WINDOWS_NAMED else "")
        raise NonFiniteError(
            f"step {self.step + 1}: the loss ({float(self._nll / self._counted.clamp(min=1)):.4g}) or its gradient "
            f"({float(self.grad_norm):.4g}) is not finite; its windows are {shown}; the update was not made. "
            "Lower optimizer.learning_rate, lengthen schedule.warmup_steps, or look at those windows"
        )
