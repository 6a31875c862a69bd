"""How the processes of a run come together: rank 0 opens the run folder, the others follow, all build one group."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from sinkpretrain.config import Config
from sinkpretrain.errors import SinkpretrainError
from sinkpretrain.training.peers import PeerLost, Peers, Progress
from sinkpretrain.training.placement import Place, from_environment
from sinkpretrain.training.supervisor import is_supervised
from sinkpretrain.training.trainer import on_gpu, sees_own_device

GO = "sinkpretrain/go"  # key of the store: the exit code that rank 0 ended with before training, or this
READ = "sinkpretrain/go-read"  # how many ranks have read that
SECONDS_TO_READ = 10.0
SLACK = 30.0  # seconds between two ways to notice a timeout


class Group:
    """The processes of one run; one process alone is a group too, in which nothing needs to be agreed on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.place = from_environment() or Place()
        self.peers: Peers | None = None
        self._store: Any | None = None
        self._has_begun = False
        if self.place.world_size > 1:
            self._store = _rendezvous(self.place, config.timeout)

    def mark(self, progress: Progress) -> None:
        """This rank is here in training now."""
        if self.peers is not None:
            self.peers.mark(progress)

    @contextmanager
    def leading(self) -> Iterator[Callable[[], None]]:
        """What rank 0 does before training; calling what this gives lets the others begin.

        Where that is not called, they end too, with the exit code of the error inside, or 0.
        """
        code: int | str = 0
        try:
            yield self._begin
        except BaseException as error:
            code = getattr(error, "exit_code", 1)
            raise
        finally:
            if not self._has_begun:
                self._announce(str(code))

    def follow(self) -> None:
        """What the other ranks do: wait for rank 0, and end without a word if it did not begin; it said why.

        Raises:
            SinkpretrainError: rank 0 is gone.
        """
        assert self._store is not None
        try:
            said = self._store.get(GO).decode()
            self._store.add(READ, 1)
        except RuntimeError as error:
            raise SinkpretrainError(f"rank 0 of {self.place.world_size} ended before training began") from error
        if said != GO:
            raise SystemExit(int(said))

    @contextmanager
    def working(self, on_lost: Callable[[str], None] = lambda reason: None) -> Iterator[None]:
        """Training, in which ranks wait for each other; an error of all is raised by rank 0 alone, the others just end.

        `on_lost` is called with the reason before this process ends itself because of another rank.
        """
        if self._store is None:
            yield
            return
        self._connect()
        judged_after = self.config.timeout + (0.0 if on_gpu(self.config) else SLACK)
        self.peers = Peers(self.place, self._store, judged_after, on_lost)
        try:
            with self.peers.naming_failures():
                yield
        except SinkpretrainError as error:
            is_said = is_supervised() or not isinstance(error, PeerLost)
            if self.place.rank > 0 and is_said:
                raise SystemExit(error.exit_code) from error
            raise
        distributed.destroy_process_group()

    def _connect(self) -> None:
        """Build the process group, on this rank's device; Lightning takes one that is there."""
        device = None
        timeout = self.config.timeout
        if on_gpu(self.config):
            device = torch.device("cuda", 0 if sees_own_device(self.config) else self.place.local_rank)
            torch.cuda.set_device(device)
            timeout += SLACK  # an operation that fails ends the process at once: `peers` must speak first
        distributed.init_process_group(
            "nccl" if device else "gloo",
            store=self._store,
            rank=self.place.rank,
            world_size=self.place.world_size,
            timeout=timedelta(seconds=timeout),
            device_id=device,
        )

    def _begin(self) -> None:
        self._has_begun = True
        self._announce(GO)

    def _announce(self, said: str) -> None:
        """Say it to the others, and stay until they have heard it: the store may end with this process."""
        if self._store is None:
            return
        self._store.set(GO, said)
        until = time.monotonic() + SECONDS_TO_READ
        while self._store.add(READ, 0) < self.place.world_size - 1 and time.monotonic() < until:
            time.sleep(0.01)


def _rendezvous(place: Place, timeout: float) -> Any:
    """The store that all ranks reach.

    Raises:
        SinkpretrainError: they do not come within the timeout.
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except RuntimeError as error:
        raise SinkpretrainError(
            f"{place}: not all {place.world_size} ranks came together within {timeout:g} s at MASTER_ADDR "
            f"{os.environ['MASTER_ADDR']}, MASTER_PORT {os.environ['MASTER_PORT']} ({error})"
        ) from error
    return store
