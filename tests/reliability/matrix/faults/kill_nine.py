"""SIGKILL at any moment, again and again, until the run is done in spite of it."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matrix.disk import Disk, Touch
from matrix.fault import Fault, Trial
from matrix.journal import BEGUN, RESTORED, SAVED, SAVING, Journal
from matrix.processes import survivors
from matrix.workshop import CONTEXT, PATIENCE, Workshop
from sinkpretrain import checkpoints
from sinkpretrain.errors import ResumeError

STEPS = 240
LONG = {
    "tokens": STEPS * 8 * CONTEXT,
    "validation": {"every": 50, "windows": 8},
    "probes": {"every": 50, "windows": 4, "metrics": ["sink_rate"]},
    "checkpoints": {"every": 4},
}
DROPOUT = {"model": {"dropout": 0.1}}
WORKERS, ACCUMULATION = {"data": {"workers": 2}}, {"micro_batch_size": 4}
KINDS = (WORKERS | DROPOUT, ACCUMULATION, WORKERS | ACCUMULATION, DROPOUT | ACCUMULATION)
TOUCHES = 100  # of the disk, those of some four saves: at one of them a process is killed inside a save
RUN_SECONDS = 2.0  # in which a process is killed that is killed at any moment: about what the whole run takes
ORPHAN_SECONDS = 10.0  # that a data worker may outlive its training process


class KillNine(Fault):
    """Chains of kills: each process goes on where the one before was killed."""

    place = 1
    name = "kill_nine"
    how = "SIGKILL at random moments, half of them inside a save, chained"
    must_hold = "0 unloadable, 0 steps lost beyond the last finished save, losses, weights and AdamW bit-identical"
    quick = 3
    full = 200

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """Runs of four kinds in turn, each killed until it is done; the last is left in peace at the end."""
        made = 0
        for chain in range(count * 10):
            overrides = {**LONG, **KINDS[chain % len(KINDS)]}
            kills = _Chain(workshop, overrides).kill(made, count)
            made += len(kills)
            yield from kills
            if made == count:
                return

    def measured(self, trials: Sequence[Trial]) -> str:
        """Where the kills fell."""
        fell = Counter(trial.what.partition(" at ")[0] for trial in trials)
        return ", ".join(f"{count} {where}" for where, count in fell.most_common())


class _Chain:
    """One run and the processes that were killed at it."""

    def __init__(self, workshop: Workshop, overrides: dict[str, Any]) -> None:
        self.workshop, self.overrides = workshop, overrides
        self.run = workshop.new_run()
        self.log, self.journal = self.run.root.parent / "log", Journal(self.run.root.parent / "journal")
        self.command = ("train", "--config", workshop.config_file(overrides), "--out", self.run.root, "--continue")
        self.newest: int | None = None  # step of the newest checkpoint after the last kill
        self.known = 0  # entries of the journal up to then
        self.killed: list[tuple[int, float]] = []  # the sessions, and when

    def kill(self, made: int, count: int) -> list[Trial]:
        """The trials of this run, up to `count` with those made before; what ails its end ails each."""
        trials: list[Trial] = []
        while made + len(trials) < count:
            inside = (made + len(trials)) % 2 == 0
            code = self._one(inside)
            if code != -signal.SIGKILL:
                break
            trials.append(self._trial(inside))
        else:
            code = self.workshop.finish(*self.command, log=self.log)
        ailing = list(self._ailing_end(code))
        if ailing and not trials:
            trials = [Trial(what=f"run {self.run.root.parent.name} before any kill", held=False)]
        return [_with(trial, ailing) for trial in trials]

    def _one(self, inside: bool) -> int | None:
        """One process that is killed, or ends before; its exit code."""
        choose = self.workshop.random
        if inside:
            where = (choose.randrange(TOUCHES), choose.choice(["before", "half", "after"]))
            plant, given, seconds = kill_inside_save, (self.journal.path, self.run.checkpoints, *where), PATIENCE
        else:
            plant, given, seconds = keep_journal, (self.journal.path,), choose.uniform(0, RUN_SECONDS)
        process = self.workshop.start(*self.command, log=self.log, before=plant, given=given)
        process.join(seconds)
        process.kill()
        process.join()
        self.killed.append((process.pid, time.monotonic()))
        return process.exitcode

    def _trial(self, inside: bool) -> Trial:
        """What the kill of the last process left behind."""
        entries = self.journal.entries()
        own, self.known = entries[self.known :], len(entries)
        last, step = own[-1] if own else (BEGUN, 0)
        where = "in a save" if last == SAVING else "in start-up" if last in (BEGUN, RESTORED) else "in training"
        ailing = [*self._ailing_restart(own), *self._ailing_checkpoints(entries), *self._orphans()]
        if inside and last != SAVING:
            ailing.append("the kill did not fall inside a save")
        what = f"{where} at step {step} of run {self.run.root.parent.name}, kill {len(self.killed)}"
        return Trial(what=what, held=not ailing, happened="; ".join(ailing))

    def _ailing_restart(self, own: Sequence[tuple[str, int]]) -> Iterator[str]:
        """Whether the killed process had itself gone on from the newest checkpoint that the kill before it left."""
        restored = [step for what, step in own if what == RESTORED]
        if restored and restored[0] != self.newest:
            yield f"it had gone on from step {restored[0]} instead of {self.newest}"

    def _ailing_checkpoints(self, entries: Sequence[tuple[str, int]]) -> Iterator[str]:
        """What is wrong with the checkpoints after a kill."""
        saved = max((step for what, step in entries if what == SAVED), default=None)
        self.newest, problems = checkpoints.newest_valid(self.run.checkpoints)
        yield from problems
        if saved is not None and (self.newest is None or self.newest < saved):
            yield f"step {saved} was saved, step {self.newest} is the newest whole checkpoint"
        if self.newest is not None:
            try:
                checkpoints.read(self.run.checkpoints, self.newest)
            except ResumeError as error:
                yield str(error)

    def _ailing_end(self, code: int | None) -> Iterator[str]:
        """What is wrong with the run, whose last process ended with this exit code."""
        if code != 0:
            yield f"the run ended with exit code {code}: {self.log.read_text().strip().splitlines()[-1]}"
            return
        for left in self.run.root.rglob(".*.tmp"):
            yield f"{left.relative_to(self.run.root)} stayed"
        until = self.killed[-1][1] + ORPHAN_SECONDS if self.killed else 0.0
        while time.monotonic() < until and any(survivors(session) for session, _ in self.killed):
            time.sleep(0.1)
        yield from self._orphans()
        if difference := self.workshop.difference(self.run, self.overrides):
            yield difference

    def _orphans(self) -> Iterator[str]:
        """Processes that live on too long after the one that made them was killed."""
        for session, killed in self.killed:
            if time.monotonic() - killed >= ORPHAN_SECONDS and (orphans := survivors(session)):
                yield f"processes {orphans} live {ORPHAN_SECONDS:.0f} s after the one that made them was killed"


def _with(trial: Trial, ailing: Sequence[str]) -> Trial:
    """The trial, which did not hold where its run ails."""
    return replace(trial, held=trial.held and not ailing, happened="; ".join(filter(None, (trial.happened, *ailing))))


def keep_journal(path: Path) -> None:
    """Plant: a journal."""
    Journal(path).keep()


def kill_inside_save(path: Path, folder: Path, number: int, when: str) -> None:
    """Plant: a journal, and SIGKILL at a touch of the disk inside a save, counted over the saves of this process."""
    journal = Journal(path)
    journal.keep()
    made = 0

    def at_last(touch: Touch) -> bool:
        return journal.last == SAVING and made == number

    def before(touch: Touch) -> bool:
        if at_last(touch) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        return at_last(touch) and when == "half"

    def after(touch: Touch) -> None:
        nonlocal made
        if at_last(touch):
            os.kill(os.getpid(), signal.SIGKILL)
        made += journal.last == SAVING

    Disk(folder, before, after)
