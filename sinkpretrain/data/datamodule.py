"""The data module: the micro-batches of this rank, in the order that the windows fix."""

import signal
from collections.abc import Iterator

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from sinkpretrain.config import Config
from sinkpretrain.data.store import TokenStore
from sinkpretrain.data.windows import Batch, Windows

PREFETCH = 4  # micro-batches a worker keeps ready


class MicroBatches(Dataset[Batch]):
    """The micro-batches of one rank over the whole run, by their number: step * accumulation + m.

    The windows of a step, as (accumulation, world size, windows of a pass), are the same for every number of ranks.
    """

    def __init__(self, windows: Windows, config: Config, rank: int, world_size: int) -> None:
        assert world_size == config.devices * config.nodes, "the configuration must be that of these processes"
        self.windows, self.rank, self.world_size = windows, rank, world_size
        self.global_batch_size, self.accumulation = config.global_batch_size, config.accumulation
        self.steps = config.steps

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __getitem__(self, number: int) -> Batch:
        step, micro = divmod(number, self.accumulation)
        ids = self.windows.ids(step, self.global_batch_size)
        return self.windows.batch(ids.reshape(self.accumulation, self.world_size, -1)[micro, self.rank])


class WindowsDataModule(L.LightningDataModule):
    """Training micro-batches from `first_step` on, and the fixed validation windows.

    A trainer over several processes needs `use_distributed_sampler=False`: the order here already knows the ranks.

    Raises:
        DataError: a split is too short for one window.
    """

    def __init__(self, store: TokenStore, config: Config, first_step: int = 0) -> None:
        super().__init__()
        self.store, self.config, self.first_step = store, config, first_step
        self.train_windows = Windows.of(store, "train", config)
        self.validation_windows = Windows.of(store, "validation", config)

    def train_dataloader(self) -> "DataLoader[Batch]":
        """This rank's micro-batches in order, the same for any number of workers."""
        rank, world_size = 0, 1
        if self.trainer:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            # Lightning would put a sampler of its own in place of ours and silently change what is trained on.
            replaces_sampler = world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler
            assert not replaces_sampler, "the trainer needs use_distributed_sampler=False"
        batches = MicroBatches(self.train_windows, self.config, rank, world_size)
        workers = self.config.data.workers
        return DataLoader(
            batches,
            batch_size=None,
            sampler=range(self.first_step * batches.accumulation, len(batches)),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            pin_memory=torch.cuda.is_available() and self.config.accelerator != "cpu",
            worker_init_fn=_leave_signals_to_training if workers else None,
        )

    def validation_batches(self, count_windows: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The fixed validation windows of this rank: every `world_size`-th batch, and a rank may have none.

        Batches are whole and the same for any number of ranks, so that the passes over them are too.

        Raises:
            DataError: the validation split has fewer windows.
        """
        ids = self.validation_windows.fixed(count_windows)
        size = self.config.micro_batch_size
        starts = range(rank * size, len(ids), world_size * size)
        return (self.validation_windows.batch(ids[start : start + size]) for start in starts)


def _leave_signals_to_training(worker: int) -> None:
    """Ignore what asks a run to stop: Slurm and terminals send it to workers too, and a dead one fails the run."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
