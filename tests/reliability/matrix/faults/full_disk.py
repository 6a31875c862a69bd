"""A disk with no room left: for a checkpoint, or for anything else that a run writes."""

import errno
import os
import re
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrix.disk import Disk, Touch, list_touches, listed
from matrix.fault import Fault, Trial
from matrix.journal import SAVED, Journal
from matrix.workshop import Workshop
from sinkpretrain import checkpoints
from sinkpretrain.runs import Run

DISK_BYTES = 24 * 2**20
DISK_FILES = 1000
BALLAST = "ballast"
SENTENCE = re.compile(r"^sinkpretrain: \S+: cannot be written .*: [\d,]+ bytes are needed, [\d,]+ are free")
# Checkpoints of 8 MB: two fit on the disk, a third while those are there does not.
BIG = {"model": {"n_layers": 2, "d_model": 128, "d_ff": 640}, "checkpoints": {"every": 3}}


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """How the room of one run runs out."""

    kind: str
    what: str
    overrides: dict[str, Any]
    free: int = DISK_BYTES  # bytes at the start
    plant: Callable[..., None] | None = None  # given the run folder, the disk and `given`
    given: tuple = ()


class FullDisk(Fault):
    """Runs on a small disk, on one that somebody else fills meanwhile, and under a limit on the size of a file."""

    place = 4
    name = "full_disk"
    how = "a 24 MB tmpfs that is too small, or is filled or left without inodes at any touch of the disk; RLIMIT_FSIZE"
    must_hold = (
        "stops with needed and free bytes, or goes on; earlier checkpoints intact, nothing temporary stays; with room "
        "resumes bit-identical"
    )
    quick = 4
    full = 100

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """The four kinds in turn; without the right to mount, limits on the size of a file alone."""
        with _disk(workshop.new_folder("disks")) as (disk, is_small):
            touches = _touches(workshop)
            for number in range(count):
                shortage = _shortage(workshop, number, touches) if is_small else _size_limit(workshop)
                happened, how = _happened(workshop, disk / f"{number}", shortage)
                yield Trial(what=f"{shortage.kind}: {shortage.what}: {how}", held=not happened, happened=happened)

    def measured(self, trials: Sequence[Trial]) -> str:
        """How many of each kind, and how many runs went on."""
        kinds = Counter(trial.what.partition(":")[0] for trial in trials)
        went_on = sum(trial.what.endswith("went on") for trial in trials)
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + f"; {went_on} went on"


def fill_disk_at(folder: Path, disk: Path, journal: Path, number: int) -> None:
    """Plant: fill the disk at a touch below the folder, as another process might."""
    Journal(journal).keep()
    Disk(folder, lambda touch: fill(disk) if touch.number == number else None)


def take_files_at(folder: Path, disk: Path, journal: Path, number: int) -> None:
    """Plant: leave the disk no room for one file more at a touch below the folder."""
    Journal(journal).keep()
    Disk(folder, lambda touch: take_files(disk) if touch.number == number else None)


def limit_file_size(folder: Path, disk: Path, journal: Path, size: int) -> None:
    """Plant: files of this process cannot grow beyond a size."""
    Journal(journal).keep()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def only_journal(folder: Path, disk: Path, journal: Path) -> None:
    """Plant: a journal."""
    Journal(journal).keep()


def fill(disk: Path, leave: int = 0) -> None:
    """Fill a disk with ballast but for so many bytes."""
    room = os.statvfs(disk)
    descriptor = os.open(disk / BALLAST, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        os.posix_fallocate(descriptor, 0, max(room.f_bavail * room.f_frsize - leave, 1))
    finally:
        os.close(descriptor)


def take_files(disk: Path) -> None:
    """Make empty files until the disk has no inode left."""
    os.mkdir(disk / BALLAST)
    try:
        for number in range(DISK_FILES):
            os.close(os.open(disk / BALLAST / str(number), os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@contextmanager
def _disk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A small disk of its own, where mounting one is allowed; else the folder, and False."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},nr_inodes={DISK_FILES}", "tmpfs", str(folder)]
    try:
        is_small = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        is_small = False
    try:
        yield folder, is_small
    finally:
        if is_small:
            subprocess.run(["umount", str(folder)], check=True)


def _touches(workshop: Workshop) -> list[Touch]:
    """What a run does to the disk."""
    run, listing = workshop.new_run(), workshop.new_folder("listings") / "touches.jsonl"
    command = ("train", "--config", workshop.config_file(), "--out", run.root)
    log = run.root.parent / "log"
    assert workshop.finish(*command, log=log, before=list_touches, given=(run.root, listing)) == 0, log.read_text()
    return listed(listing)


def _shortage(workshop: Workshop, number: int, touches: Sequence[Touch]) -> Shortage:
    if number % 4 == 0:
        return _too_small(workshop)
    if number % 4 == 1:
        return _size_limit(workshop)
    return _filled(workshop, touches, "filled" if number % 4 == 2 else "without inodes", number // 4)


def _too_small(workshop: Workshop) -> Shortage:
    """A disk with room for no, one or two checkpoints of 8 MB."""
    free = workshop.random.choice([DISK_BYTES, workshop.random.randrange(2**20, DISK_BYTES)])
    return Shortage(kind="too small", what=f"{free:,} bytes at the start", overrides=BIG, free=free)


def _filled(workshop: Workshop, touches: Sequence[Touch], kind: str, turn: int) -> Shortage:
    """A disk that is full from a touch on: each kind of file and folder in its turn, at any of its touches."""
    by_file: dict[str, list[Touch]] = {}
    for touch in touches:
        by_file.setdefault(re.sub(r"\d+", "N", touch.path), []).append(touch)
    touch = workshop.random.choice(by_file[sorted(by_file)[turn % len(by_file)]])
    what = f"at {touch.kind} {touch.path} (touch {touch.number})"
    plant = fill_disk_at if kind == "filled" else take_files_at
    return Shortage(kind=kind, what=what, overrides={}, plant=plant, given=(touch.number,))


def _size_limit(workshop: Workshop) -> Shortage:
    """A limit below the size of one of the run's files, its log apart."""
    sizes = {path: path.stat().st_size for path in workshop.undisturbed().root.rglob("*") if path.is_file()}
    path = workshop.random.choice(sorted(path for path, size in sizes.items() if size > 2048))
    size = max(1024, int(sizes[path] * workshop.random.uniform(0.2, 0.99)))
    what = f"{size:,} bytes, less than {path.name}"
    return Shortage(kind="file size", what=what, overrides={}, plant=limit_file_size, given=(size,))


def _happened(workshop: Workshop, disk: Path, shortage: Shortage) -> tuple[str, str]:
    """What did not hold on a run without room, and how it ended."""
    folder = workshop.new_folder("shortages")
    run, log, journal = Run(disk), folder / "log", Journal(folder / "journal")
    command = ("train", "--config", workshop.config_file(shortage.overrides), "--out", run.root, "--continue")
    if shortage.free < DISK_BYTES:
        fill(disk.parent, leave=shortage.free)
    given = (run.root, disk.parent, journal.path, *shortage.given)
    code = workshop.finish(*command, log=log, before=shortage.plant or only_journal, given=given)
    how = f"exit code {code}" if code else "went on"
    _clear(disk.parent)
    happened = [*_ailing_stop(code, log), *_ailing_folder(run, journal)]
    _resize(disk.parent, 4 * DISK_BYTES)
    if not happened:
        again = workshop.finish(*command, log=log)
        happened = [workshop.difference(run, shortage.overrides) if again == 0 else _last_line(log)]
    shutil.rmtree(run.root, ignore_errors=True)  # there may be none
    _resize(disk.parent, DISK_BYTES)
    return "; ".join(filter(None, happened)), how


def _ailing_stop(code: int, log: Path) -> Iterator[str]:
    """Whether a run that did not go on stopped with the one sentence."""
    if code == 0:
        return
    said = log.read_text()
    if code != 1:
        yield f"ended with exit code {code}"
    if "Traceback" in said or not SENTENCE.match(_last_line(log)):
        yield f"said at the end: {_last_line(log)}"


def _ailing_folder(run: Run, journal: Journal) -> Iterator[str]:
    """What is wrong with the run folder."""
    saved = {step for what, step in journal.entries() if what == SAVED}
    newest, problems = checkpoints.newest_valid(run.checkpoints)
    yield from problems
    if saved and newest != max(saved):
        yield f"step {max(saved)} was saved, step {newest} is the newest whole checkpoint"
    for left in run.root.rglob(".*.tmp"):
        yield f"{left.relative_to(run.root)} stayed"


def _clear(disk: Path) -> None:
    """Take the ballast away."""
    ballast = disk / BALLAST
    if ballast.is_dir():
        shutil.rmtree(ballast)
    ballast.unlink(missing_ok=True)


def _resize(disk: Path, size: int) -> None:
    if disk.is_mount():
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def _last_line(log: Path) -> str:
    return log.read_text().strip().splitlines()[-1]
