"""Signals that ask a run to stop: heard by any rank, heeded by all at the end of the same step."""

import signal
import threading
import types
from typing import Any

import lightning as L
import torch

from sinkpretrain.errors import Interrupted, Preempted
from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule
from sinkpretrain.training.placement import Place


class StopSignals(StepCallback):
    """Takes over SIGTERM, SIGUSR1 and SIGINT inside a `with` block and keeps the first that came in `received`.

    Where nothing is lost by it and no other rank is left waiting (`ends_at_once`), a signal ends the run there.
    Otherwise it is noted, for `agreed` to be asked before the first step and at the end of each. A second signal of the
    kind ends a process alone at once. A rank goes on to the end of the step: who started it may send the same signal
    twice, and has harder ones.
    """

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, run: Run, place: Place) -> None:
        self.run = run
        self.received: signal.Signals | None = None
        self._is_alone = place.world_size == 1
        self.ends_at_once = self._is_alone
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # only there does Python let anyone listen
            self._before = {number: signal.signal(number, self._receive) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """From now on a signal is only noted; heed one that was noted before."""
        self.ends_at_once = False
        if stop := self.agreed(trainer):
            raise self.stopped(stop, "before training")

    def agreed(self, trainer: L.Trainer) -> signal.Signals | None:
        """The signal that asks for a stop, the same on all ranks: of several the one of the highest number."""
        if self._is_alone:  # nothing to agree on, and on a GPU nothing to wait for
            return self.received
        own = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(own, reduce_op="max"))
        return signal.Signals(number) if number else None

    def stopped(self, by: signal.Signals, where: str) -> Preempted:
        """The error that ends the run; `where` it is, in words."""
        error, root = Interrupted if by == signal.SIGINT else Preempted, self.run.root
        begun = self.run.config_path.exists()
        advice = f"go on with: sinkpretrain train --resume {root}" if begun else "there is nothing yet to go on with"
        return error(f"{root}: stopped by {by.name} {where}; {advice}")

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if self._is_alone:
            signal.signal(number, signal.SIG_DFL)
        if self.ends_at_once:
            raise self.stopped(self.received, "before training")
