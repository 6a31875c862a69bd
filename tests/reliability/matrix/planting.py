"""Faults planted in a process of a run: called before it begins, they act when it gets to a place.

Each says in a file that it has acted, and when: a fault that never struck must not count as survived.
"""

import functools
import importlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from matrix.processes import survivors

MATRIX = Path(__file__).parent
# place -> module, class and function that a run enters there; `write` is between the files of a checkpoint
PLACES = {
    "start": ("sinkpretrain.model.llama", "Llama", "__init__"),
    "step": ("sinkpretrain.training.module", "PretrainModule", "optimizer_step"),
    "validation": ("sinkpretrain.training.callbacks.validation", "Validation", "measure"),
    "probe": ("sinkpretrain.training.callbacks.probes", "Probes", "measure"),
    "save": ("sinkpretrain.training.callbacks.checkpointing", "Checkpointing", "save"),
    "write": ("torch", None, "save"),
}


def when(place: str, number: int, act: Callable[[], None]) -> None:
    """Call `act` as this process enters a place for the `number`-th time, counted from 0."""
    module, kind, name = PLACES[place]
    owner: Any = importlib.import_module(module)
    owner = getattr(owner, kind) if kind else owner
    entered, counts = getattr(owner, name), itertools.count()

    @functools.wraps(entered)
    def enter(*arguments: Any, **keys: Any) -> Any:
        if next(counts) == number:
            act()
        return entered(*arguments, **keys)

    setattr(owner, name, enter)


def elsewhere(planted: dict[str, tuple[Callable[..., None], Sequence[Any]]]) -> None:
    """Call functions with arguments in processes that this one will start: `0`, `1` (ranks), `mirror` (of W&B)."""
    named = {
        place: {"function": f"{function.__module__}:{function.__name__}", "given": list(given)}
        for place, (function, given) in planted.items()
    }
    os.environ["SINKPRETRAIN_PLANTED"] = json.dumps(named)
    path = [str(MATRIX / "ranks"), str(MATRIX.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path).rstrip(os.pathsep)


def signals(evidence: str, plan: Sequence[Sequence[Any]]) -> None:
    """Send signals at places, in this order: each (place, number, signal's name, to whom, seconds later)."""
    for place, number, *how in reversed(plan):  # what is planted last is met first
        when(place, number, functools.partial(send, evidence, *how))


def send(evidence: str, name: str, to: str, later: float = 0.0) -> None:
    """Send a signal to this process (`self`), the one that started it (`launcher`) or its first data `worker`."""
    time.sleep(later)
    process = {"self": os.getpid, "launcher": os.getppid, "worker": lambda: _first_worker()}[to]()
    note(evidence, f"{name} to {to}")
    os.kill(process, getattr(signal, name))


def fail(evidence: str, place: str, number: int) -> None:
    """Raise at a place."""

    def act() -> None:
        note(evidence, f"raised in {place} {number}")
        raise RuntimeError("power cut")

    when(place, number, act)


def note(evidence: str, what: str) -> None:
    """Add a line to the file of evidence: the time, what was done."""
    with Path(evidence).open("a", encoding="utf-8") as file:
        print(time.time(), what, file=file)


def noted(evidence: Path) -> list[tuple[float, str]]:
    """What was done, in order, with the time of each."""
    if not evidence.exists():
        return []
    lines = (line.partition(" ") for line in evidence.read_text(encoding="utf-8").splitlines())
    return [(float(when), what) for when, _, what in lines]


def _first_worker() -> int:
    process = min(active_children(), key=lambda child: child.pid or 0).pid
    assert process is not None
    return process


def left_of(folder: Path, session: int) -> list[int]:
    """Ids of the living processes of a session, or whose command line or environment names a folder."""
    found = survivors(session)
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            said = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if state != "Z" and str(folder).encode() in said:
            found.append(int(path.name))
    return sorted(set(found))
