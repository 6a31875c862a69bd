"""The data module: the micro-batches of this rank, in the order that the windows fix."""

import hashlib
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from sinkpretrain.config import Config
from sinkpretrain.data.store import TokenStore
from sinkpretrain.data.windows import Batch, Windows
from sinkpretrain.errors import SinkpretrainError

STEPS_HASHED = 4  # of training, by which runs can tell that they read the same windows in the same order
PREFETCH = 4  # micro-batches a worker keeps ready
# What torch says of a worker that is gone.
GONE = re.compile(r"DataLoader worker \(pid\S* (?P<pids>[\d, ]+)\) (?:is killed by signal: (?P<signal>[^.]+)|exited)")
ADVICE = "ask for more memory, or set fewer data.workers (0 needs none), and go on with --resume"


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


class WatchedLoader(DataLoader[Batch]):
    """A loader whose workers answer within `patience` seconds.

    torch's own `timeout` waits without end for a worker that stops while it hands over a batch.

    Raises:
        SinkpretrainError: a worker does not answer, or has ended.
    """

    def __init__(self, dataset: MicroBatches, *, patience: float, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.patience = patience

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        others = multiprocessing.active_children()
        batches = super().__iter__()
        workers = _children_but(others)
        if not workers:
            yield from batches
            return
        while True:
            with self._answering(workers):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _answering(self, workers: list[BaseProcess]) -> Iterator[None]:
        """End workers that do not answer in time, which ends the wait for them with an error of torch."""
        silent = threading.Event()

        def give_up() -> None:
            silent.set()
            for worker in workers:
                worker.kill()

        timer = threading.Timer(self.patience, give_up)
        timer.start()
        try:
            yield
        except Exception as error:
            if not silent.is_set():
                _name_lost(error, {worker.pid: worker.exitcode for worker in workers if worker.exitcode})
                raise
            raise SinkpretrainError(
                f"a data worker has not answered for {self.patience:g} s (timeout): it was stopped, or waits for a "
                f"disk or for memory; {ADVICE}"
            ) from error
        finally:
            timer.cancel()


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
        return WatchedLoader(
            batches,
            patience=self.config.timeout,
            batch_size=None,
            sampler=range(self.first_step * batches.accumulation, len(batches)),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            pin_memory=torch.cuda.is_available() and self.config.accelerator != "cpu",
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=partial(_begin_worker, os.getpid()) if workers else None,
        )

    def token_hashes(self) -> dict[str, str]:
        """SHA-256 of tokens and targets, as training reads them, of the first steps and of all validation windows.

        Raises:
            DataError: the validation split has fewer windows than are asked for.
        """
        first = (self.train_windows.ids(step, self.config.global_batch_size) for step in range(STEPS_HASHED))
        ids = {"train": list(first), "validation": [self.validation_windows.fixed(self.config.validation.windows)]}
        windows = {"train": self.train_windows, "validation": self.validation_windows}
        return {split: _sha256(windows[split].batch(of_step) for of_step in ids[split]) for split in windows}

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


def _sha256(batches: Iterable[Batch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for part in filter(torch.is_tensor, batch):
            digest.update(part.numpy().data)
    return digest.hexdigest()


def _begin_worker(training: int, worker: int) -> None:
    """Let a worker end with the process that trains, and ignore what asks a run to stop.

    Torch's own watch does not see a process that dies while the worker starts. Slurm and terminals send signals to
    workers too, and a dead one fails the run.
    """
    threading.Thread(target=_end_with, args=(training,), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _end_with(training: int) -> None:
    """End this process once that one, which made it, is gone."""
    while os.getppid() == training:
        time.sleep(1.0)
    os._exit(1)


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Training that may use data workers; none of them is left after it.

    Raises:
        SinkpretrainError: a data worker was ended by a signal.
    """
    others = multiprocessing.active_children()
    try:
        yield
    except RuntimeError as error:
        if found := GONE.search(str(error)):
            by_signal = {signal.strsignal(number): -number for number in signal.valid_signals()}
            _name_lost(error, {found["pids"]: by_signal.get(found["signal"])})
        raise
    finally:
        _end(_children_but(others))


def _name_lost(error: Exception, codes: Mapping[Any, int | None]) -> None:
    """Raise about the first of these workers by process id, with their exit codes, if there are any."""
    for process, code in codes.items():
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else "ended unexpectedly"
        raise SinkpretrainError(
            f"a data worker (process {process}) {how}, most often because memory ran out; {ADVICE}"
        ) from error


def _children_but(others: list[BaseProcess]) -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child not in others]


def _end(workers: list[BaseProcess]) -> None:
    """SIGKILL them: the end of Python waits for each, and one that is stopped heeds nothing else."""
    if not workers:
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise that they are lost
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
