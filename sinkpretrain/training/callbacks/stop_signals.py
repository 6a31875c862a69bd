"""Signals that ask a run to stop: heard by any rank, heeded by all at the end of the same step."""

import signal
import types
from typing import Any

import lightning as L
import torch

from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule


class StopSignals(StepCallback):
    """Takes over SIGTERM, SIGUSR1 and SIGINT during training and keeps the first that came in `received`.

    A second signal of the kind ends a process alone at once. A rank goes on to the end of the step: who started it may
    send the same signal twice, and has harder ones.
    """

    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._is_alone = True

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Take over the signals; Lightning's own handlers come back at the end."""
        self._is_alone = trainer.world_size == 1
        self._before = {number: signal.signal(number, self._receive) for number in self.signals}

    def on_end(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def agreed(self, trainer: L.Trainer) -> signal.Signals | None:
        """The signal that asks for a stop, the same on all ranks: of several the one of the highest number."""
        if self._is_alone:  # nothing to agree on, and on a GPU nothing to wait for
            return self.received
        own = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(own, reduce_op="max"))
        return signal.Signals(number) if number else None

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if self._is_alone:
            signal.signal(number, signal.SIG_DFL)
