"""The LightningModule: one Llama, its loss, its optimizer; it counts optimizer steps and says no to harmful ones."""

import logging
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sinkpretrain.checkpoints import Checkpoint
from sinkpretrain.config import Config
from sinkpretrain.data.windows import IGNORED, Batch
from sinkpretrain.errors import NonFiniteError, SinkpretrainError
from sinkpretrain.model.llama import Llama, next_token_loss
from sinkpretrain.model.load import restore_weights
from sinkpretrain.training.guard import Guard, Objection
from sinkpretrain.training.optimizer import build_optimizer, learning_rate
from sinkpretrain.training.randomness import restore_random_states, seed_pass
from sinkpretrain.training.sharding import gathered, is_sharded, scattered, shard

WINDOWS_NAMED = 8  # in the message about a harmful step

logger = logging.getLogger(__name__)


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
        self.guard = Guard(config.guard)
        self.loss = 0.0  # of the last step, mean over all ranks, in nats a counted target
        self.grad_norm = torch.zeros(())
        self._nll: list[Tensor] = []  # of each pass of the step, summed over its counted targets
        self._counted: list[Tensor] = []  # these
        self._restored: Checkpoint | None = None  # what a resumed run goes on from, until it does

    @property
    def tokens(self) -> int:
        """Input tokens seen, over all devices."""
        return self.step * self.config.tokens_per_step

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, before training.

        Raises:
            ResumeError: it is of a model with other parameters.
        """
        restore_weights(self.model, checkpoint)
        self.step = checkpoint.step
        self.guard.restore(checkpoint.state["guard"])
        self._restored = checkpoint

    def on_train_start(self) -> None:
        """Let the generators go on from where this rank's were; a rank that is new goes on with its own."""
        if self._restored is not None:
            states = {name: rows for name, rows in self._restored.random.items() if self.global_rank < len(rows)}
            if states:
                restore_random_states({name: rows[self.global_rank] for name, rows in states.items()})
            self._restored = None

    def configure_model(self) -> None:
        """Divide the model over the devices, where the strategy is a sharded one."""
        if self.device_mesh is not None and not is_sharded(self.model):
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its learning rate is set at each step."""
        optimizer = build_optimizer(self.model, self.config.optimizer)
        if self._restored is not None:
            optimizer.load_state_dict(scattered(dict(self._restored.optimizer), optimizer))
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """A new micro-batch: no step has finished yet."""
        self.step_just_finished = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The summed loss of a micro-batch over its number of positions.

        The divisor is the same for every micro-batch and rank, so that their mean is the loss of the global batch
        however it is divided, also where some targets do not count.
        """
        place = batch_idx % self.config.accumulation * self.trainer.world_size + self.trainer.global_rank
        seed_pass(self.config.seed, self.step, place)
        nll = next_token_loss(self.model(batch.tokens_BT, batch.document_BT), batch.targets_BT)
        self._nll.append(nll.detach().double())
        self._counted.append((batch.targets_BT != IGNORED).sum().double())
        return nll / batch.targets_BT.numel()

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Refuse a missing gradient, measure the norm of the whole one, clip; refuse or leave out a harmful step."""
        self._refuse_unused()
        clip = self.config.optimizer.clip
        self.grad_norm = gathered(torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip or float("inf")))
        nll, counted = self.all_reduce(torch.stack([sum(self._nll), sum(self._counted)])).tolist()  # type: ignore[list-item]
        self.loss = nll / counted
        # Under fp16 the gradient scaler meets overflows as a matter of course and skips their updates itself.
        judged = (self.loss,) if self.config.precision == "fp16" else (self.loss, float(self.grad_norm))
        if objection := self.guard.judge(*judged):
            self._heed(objection, optimizer)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """One update at this step's learning rate."""
        rate = learning_rate(self.step, self.config.steps, self.config.optimizer.learning_rate, self.config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.step += 1
        self.step_just_finished = True
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            found = {"train/loss": self.loss, "optim/lr": rate, "optim/grad_norm": float(self.grad_norm)}
            self.row |= {name: value for name, value in found.items() if math.isfinite(value)}  # JSON has no NaN
        self._nll, self._counted = [], []

    def all_reduce(self, sums: Tensor) -> Tensor:
        """A tensor of sums added up over the ranks."""
        reduced: Tensor = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return reduced

    def of_all_ranks(self, own: Tensor) -> Tensor:
        """A tensor of each rank, stacked in their order, shape (ranks, ...); every rank must ask."""
        every: Any = self.all_gather(own)
        stacked: Tensor = every.reshape(self.trainer.world_size, *own.shape)
        return stacked

    def _refuse_unused(self) -> None:
        """Raise where the loss does not depend on a parameter; DDP would say so later, and without its name."""
        unused = [name for name, of in self.model.named_parameters() if of.requires_grad and of.grad is None]
        if unused:
            raise SinkpretrainError(
                f"{', '.join(unused)}: no gradient came, the loss does not depend on it; let the forward pass use it, "
                "or take it out of the model"
            )

    def _heed(self, objection: Objection, optimizer: Any) -> None:
        """Leave this step's update out, where the user chose so, or raise; on all ranks alike."""
        windows = self._windows_to_look_at()
        shown = ", ".join(map(str, windows[:WINDOWS_NAMED])) + (", ..." if len(windows) > WINDOWS_NAMED else "")
        found = (
            f"step {self.step + 1}: the loss ({self.loss:.4g}) or its gradient ({float(self.grad_norm):.4g}) "
            f"{objection.why}; its windows are {shown}; the update was not made"
        )
        if objection.is_skipped:
            optimizer.zero_grad(set_to_none=True)  # AdamW passes over a parameter without a gradient
            self.row["optim/skipped"] = float(self.guard.skipped)
            logger.warning("%s, training goes on (%d left out so far)", found, self.guard.skipped)
            return
        raise NonFiniteError(
            f"{found}. Lower optimizer.learning_rate, lengthen schedule.warmup_steps, look at those windows (all are "
            "in status.json), or let such steps be left out (guard.nonfinite, guard.spike)",
            windows,
        )

    def _windows_to_look_at(self) -> list[int]:
        """The windows of the passes whose loss is not finite, or all of the step; every rank must ask."""
        config = self.config
        ids = self.trainer.datamodule.train_windows.ids(self.step, config.global_batch_size)  # type: ignore[attr-defined]
        nll_RA = self.of_all_ranks(torch.stack(self._nll))
        ids_ARN = ids.reshape(config.accumulation, self.trainer.world_size, -1)
        bad_AR = ~nll_RA.isfinite().cpu().numpy().T
        found: list[int] = (ids_ARN[bad_AR] if bad_AR.any() else ids_ARN).flatten().tolist()
        return found
