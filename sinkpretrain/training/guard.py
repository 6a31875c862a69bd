"""Which steps must not be learned from: non-finite ones, and spikes."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from sinkpretrain.config import GuardConfig

HISTORY = 128  # steps that a loss is judged by
JUDGED_FROM = 32  # steps of history; before them nobody knows what is usual


@dataclass(frozen=True, kw_only=True)
class Objection:
    """Why a step must not be learned from, and whether its update is left out (or else the run stopped)."""

    why: str
    is_skipped: bool


class Guard:
    """Judges each step before its update, from numbers that all ranks share; `state` goes into checkpoints."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.losses: deque[float] = deque(maxlen=HISTORY)  # of the steps that were learned from
        self.skipped = 0  # steps left out so far
        self._in_a_row = 0

    def judge(self, loss: float, *others: float) -> Objection | None:
        """What is wrong with the step that follows those judged before; None where nothing is.

        Args:
            loss: in nats a token, over all ranks.
            others: what must be finite beside it.
        """
        if not all(map(math.isfinite, (loss, *others))):
            return self._object("is not finite", self.config.nonfinite)
        if usual := self._departed_from(loss):
            return self._object(f"is a spike: {usual}", self.config.spike)
        self.losses.append(loss)
        self._in_a_row = 0
        return None

    def _departed_from(self, loss: float) -> str | None:
        """What losses were usual, where this one is far above them."""
        if self.config.spike == "off" or len(self.losses) < JUDGED_FROM:
            return None
        mean, deviation = fmean(self.losses), pstdev(self.losses)
        if loss - mean <= max(self.config.spike_deviations * deviation, self.config.spike_nats):
            return None
        return f"the {len(self.losses)} steps before had {mean:.4g} +- {deviation:.2g}"

    def _object(self, why: str, chosen: str) -> Objection:
        is_skipped = chosen == "skip" and self._in_a_row < self.config.patience
        self.skipped += is_skipped
        self._in_a_row += is_skipped
        return Objection(why=why, is_skipped=is_skipped)

    @property
    def state(self) -> dict[str, Any]:
        """Plain JSON, for `restore`."""
        return {"losses": list(self.losses), "skipped": self.skipped, "in_a_row": self._in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of a checkpoint."""
        self.losses.extend(state["losses"])
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]
