"""What the processes of a run know of each other, so that one that fails or hangs is named by the others.

Each rank says every half second where it is, in the store that the process group was built from. A rank whose
collective operation fails, or waits for too long, looks there for the rank that is to blame.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from torch import distributed

from sinkpretrain.errors import Preempted, SinkpretrainError
from sinkpretrain.training import supervisor
from sinkpretrain.training.placement import Place

BEAT = 0.5  # seconds between two words of a rank
SILENCE = 5.0  # seconds without a word after which a rank counts as gone
PATIENCE = SILENCE + 4 * BEAT  # seconds that a rank looks for the one to blame
BETWEEN, FORWARD, BACKWARD = range(3)
PHASES = ("between steps (validation, probes, checkpoints, data)", "forward pass", "backward pass")
KEYS = "sinkpretrain/rank/{}"


class PeerLost(SinkpretrainError):
    """Another rank failed, is gone, does not answer, or lags behind."""


class Progress(NamedTuple):
    """Where a rank is in training, ordered as training goes: updates done, micro-batches done here, phase."""

    step: int = 0
    micro_batch: int = 0
    phase: int = BETWEEN

    def __str__(self) -> str:
        return f"step {self.step}, {PHASES[self.phase]}"


class Word(NamedTuple):
    """What a rank last said, and when that was heard here."""

    progress: Progress
    since: float  # seconds that it had been there
    waits: bool  # in a collective operation, for others
    failure: str  # empty: none
    text: bytes
    heard: float

    def __str__(self) -> str:
        return f"last heard of {time.monotonic() - self.heard:.0f} s ago, at {self.progress}"


class Peers:
    """The other ranks of this process, and its word to them.

    Args:
        place: of this process.
        store: that all ranks reach.
        judged_after: seconds without progress after which this process ends itself where another is to blame.
        on_lost: called then, from another thread, with the reason.
    """

    def __init__(self, place: Place, store: Any, judged_after: float, on_lost: Callable[[str], None]) -> None:
        self.place, self.store, self.judged_after, self.on_lost = place, store, judged_after, on_lost
        self.words: dict[int, Word] = {}
        self._progress, self._since, self._failure = Progress(), time.monotonic(), ""
        self._answered, self._is_store_lost = time.monotonic(), False
        self._stop, self._failure_said = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=of, daemon=True) for of in (self._talk, self._judge)]

    def mark(self, progress: Progress) -> None:
        """This rank is here now."""
        self._progress, self._since = progress, time.monotonic()

    @contextmanager
    def naming_failures(self) -> Iterator[None]:
        """Tell the others of an exception inside; turn that of a failed collective operation into who is to blame.

        Raises:
            PeerLost: another rank failed, is gone, does not answer, or lags behind.
        """
        for thread in self._threads:
            thread.start()
        try:
            yield
        except Preempted:
            raise
        except Exception as error:
            if not _is_of_communication(error):
                self._say_failure(f"{type(error).__name__}: {error}")
                raise
            reason = self._look_for_blame() or f"{self.place} lost the others: {str(error).splitlines()[0]}"
            supervisor.tell(error=reason)
            raise PeerLost(reason) from error
        finally:
            self._stop.set()
            for thread in self._threads:  # Python aborts where it ends while one is in the store's C++ code
                thread.join(4 * BEAT)

    def blame(self, *, lagging: bool = True) -> str | None:
        """The rank that keeps this one from going on, in words; None where nothing points to one."""
        now = time.monotonic()
        others = {rank: word for rank, word in self.words.items() if rank != self.place.rank}
        for rank, word in others.items():
            if word.failure:
                return f"{self._name(rank)} failed: {word.failure}"
        if self._is_store_lost or now - self._answered > SILENCE:
            what = "is gone" if self._is_store_lost else "does not answer"
            return f"{self._keeper()} {what}" + (f": {self.words[0]}" if 0 in others else "")
        for rank, word in others.items():
            if now - word.heard > SILENCE:
                return f"{self._name(rank)} does not answer: {word}"
        for rank, word in others.items() if lagging else ():
            if (word.progress, word.waits) < (self._progress, True):
                seconds = word.since + now - word.heard
                return f"{self._name(rank)} keeps the others waiting: for {seconds:.0f} s at {word.progress}"
        return None

    def _look_for_blame(self) -> str | None:
        """`blame`, with patience: silence takes a while to show."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if reason := self.blame(lagging=False):
                return reason
            time.sleep(BEAT / 2)
        return self.blame()

    def _talk(self) -> None:
        """Say and hear, until the end; in a thread with a connection of its own."""
        store, number = self.store.clone(), 0
        keys = [KEYS.format(rank) for rank in range(self.place.world_size)]
        try:
            while True:
                number += 1
                since, failure = time.monotonic() - self._since, self._failure
                own = [number, self._progress, since, _waits(), failure]
                store.set(keys[self.place.rank], json.dumps(own))
                for rank, text in enumerate(store.multi_get(keys)):
                    self._hear(rank, text)
                self._answered = time.monotonic()
                if failure:
                    self._failure_said.set()
                if self._stop.wait(BEAT):
                    return
        except RuntimeError:  # the connection broke
            self._is_store_lost = True
            self._failure_said.set()

    def _hear(self, rank: int, text: bytes) -> None:
        before = self.words.get(rank)
        if before is None or before.text != text:  # a rank that is there counts its words
            _, progress, since, waits, failure = json.loads(text)
            self.words[rank] = Word(Progress(*progress), since, waits, failure, text, time.monotonic())

    def _judge(self) -> None:
        """End this process where it waits for one that will not come, and its own thread cannot say so."""
        failed_since = None
        while not self._stop.wait(BEAT):
            now = time.monotonic()
            has_failed = any(word.failure for rank, word in self.words.items() if rank != self.place.rank)
            failed_since = failed_since or now if has_failed else None
            waits_in_vain = failed_since is not None and now - failed_since > PATIENCE
            if (waits_in_vain or now - self._since > self.judged_after) and (reason := self.blame()):
                self._end(reason)

    def _end(self, reason: str) -> NoReturn:
        self.on_lost(reason)
        supervisor.tell(error=reason)
        if self.place.rank == 0 or not supervisor.is_supervised():
            print(f"sinkpretrain: {reason}", file=sys.stderr, flush=True)
        os._exit(1)

    def _say_failure(self, failure: str) -> None:
        """Let the others know before this process, and a store that it keeps, are gone."""
        self._failure = failure
        supervisor.tell(error=failure)
        self._failure_said.wait(4 * BEAT)
        if self.place.rank == 0:
            time.sleep(2 * BEAT)

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {self.place.world_size}"

    def _keeper(self) -> str:
        """Who keeps the store: torchrun's agent, or rank 0."""
        is_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return "torchrun, which keeps the ranks' store," if is_agent else f"{self._name(0)}, which keeps their store,"


def _is_of_communication(error: BaseException) -> bool:
    """Whether an exception says that a collective operation failed, which is another rank's doing."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "pair closure", "NCCL"))
    )


def _waits() -> bool:
    """Whether the main thread is in a collective operation that it called by name; DDP's own are not seen."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_filename == distributed.distributed_c10d.__file__:
            return True
        frame = frame.f_back
    return False
