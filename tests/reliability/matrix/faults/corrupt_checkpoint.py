"""Checkpoints that were damaged on the disk."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matrix.fault import Fault, Trial
from matrix.workshop import Workshop
from sinkpretrain import checkpoints
from sinkpretrain.errors import ResumeError
from sinkpretrain.runs import Run

MANIFEST = "manifest.json"
PAIRS = '{"step": 8, "files": [[1, "2"], ["model.safetensors", "3"]]}'  # with keys that JSON does not have
ENDED = 86  # exit code of the process that makes half a run


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something done to a checkpoint folder."""

    kind: str
    what: str
    do: Callable[[Path], object]


class CorruptCheckpoint(Fault):
    """The newest checkpoint of a run is damaged; one damage in ten meets a run that really goes on."""

    place = 5
    name = "corrupt_checkpoint"
    how = "a flipped bit, a truncation, a missing, foreign or extra file, an empty folder"
    must_hold = "refused and named, the older one used, and said so; 0 silent"
    quick = 90
    full = 800

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """Damages of all kinds mixed as `_damage` does."""
        run = _half_done(workshop)
        for number in range(count):
            damage = _damage(workshop, number, _newest(run))
            goes_on = number % 30 == 0 if count < self.full else number % 10 == 0
            happened = (_after_going_on if goes_on else _after_reading)(workshop, run, damage)
            what = f"{damage.kind}: {damage.what}{', then --resume' if goes_on else ''}"
            yield Trial(what=what, held=not happened, happened=happened)

    def measured(self, trials: Sequence[Trial]) -> str:
        """How many of each kind, and how many met a run that went on."""
        kinds = Counter(trial.what.partition(":")[0] for trial in trials)
        resumed = sum(trial.what.endswith("then --resume") for trial in trials)
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + f"; {resumed} through train --resume"


def _damage(workshop: Workshop, number: int, folder: Path) -> Damage:
    """Of eight damages five flips and two truncations, spread over the files; the eighth is one of a list."""
    choose = workshop.random
    names = sorted(path.name for path in folder.iterdir())
    name = names[number // 8 % len(names)] if number % 8 == 7 else names[number % len(names)]
    size = (folder / name).stat().st_size
    if number % 8 < 5:
        place, bit = choose.randrange(size), choose.randrange(8)
        what = f"bit {bit} of byte {place} of {name}"
        return Damage(kind="flips", what=what, do=lambda at: _flip(at / name, place, bit))
    if number % 8 < 7:
        length = choose.randrange(size)
        what = f"{name} to {length} of {size} bytes"
        return Damage(kind="truncations", what=what, do=lambda at: _cut(at / name, length))
    whole = [*_befalling(name), *_manifests()]
    return whole[number // (8 * len(names)) % len(whole)]


def _befalling(name: str) -> Iterator[Damage]:
    """What can befall a file, or all of them, as a whole."""

    def other(kind: str, what: str, do: Callable[[Path], object]) -> Damage:
        return Damage(kind=kind, what=what, do=do)

    yield other("missing", name, lambda at: (at / name).unlink())
    yield other("missing", "everything: an empty folder", lambda at: [file.unlink() for file in at.iterdir()])
    yield other("of another step", name, lambda at: shutil.copy(_older(at) / name, at / name))
    yield other("of another step", "all", lambda at: shutil.copytree(_older(at), at, dirs_exist_ok=True))
    yield other("appended to", name, lambda at: (at / name).write_bytes((at / name).read_bytes() + b"\0"))
    yield other("replaced", f"{name} by a folder", lambda at: ((at / name).unlink(), (at / name).mkdir()))


def _manifests() -> Iterator[Damage]:
    """Manifests that were written by somebody else."""

    def changed(what: str, change: Callable[[dict], object]) -> Damage:
        def do(at: Path) -> None:
            manifest = json.loads((at / MANIFEST).read_text())
            change(manifest["files"])
            (at / MANIFEST).write_text(json.dumps(manifest))

        return Damage(kind="manifests", what=what, do=do)

    yield changed("without an entry", lambda files: files.popitem())
    yield changed("with an entry more", lambda files: files.update(more="0" * 64))
    yield changed("that lead outside", lambda files: files.update({"../../status.json": ""}))
    yield changed("without files", lambda files: files.clear())
    for text in ("{}", "[]", "null", '""', PAIRS, "[" * 100_000, '{"step": 8, "files": 3}', "\ud800", "NaN"):
        yield Damage(kind="manifests", what=f"that read {text[:40]!a}", do=lambda at, text=text: _write(at, text))


def _write(folder: Path, manifest: str) -> None:
    (folder / MANIFEST).write_bytes(manifest.encode(errors="surrogatepass"))


def _after_reading(workshop: Workshop, run: Run, damage: Damage) -> str:
    """What did not hold when a damaged checkpoint was looked for and read, in this process."""
    folder = workshop.new_folder("damaged") / "checkpoints"
    shutil.copytree(run.checkpoints, folder)
    older, newest = checkpoints.steps(folder)[-2:]
    damage.do(checkpoints.path_of(folder, newest))
    try:
        step, problems = checkpoints.newest_valid(folder)
        named = len(problems) == 1 and str(checkpoints.path_of(folder, newest)) in problems[0]
        if step != older or not named:
            return f"found step {step} and the problems {problems}"
        checkpoints.read(folder, older)
        checkpoints.read(folder, newest)
    except ResumeError as error:
        return "" if str(checkpoints.path_of(folder, newest)) in str(error) else f"refused with '{error}'"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder)
    return f"step {newest} was read all the same"


def _after_going_on(workshop: Workshop, run: Run, damage: Damage) -> str:
    """What did not hold when a run with a damaged checkpoint went on."""
    copy = workshop.new_run()
    shutil.copytree(run.root, copy.root)
    older, newest = checkpoints.steps(copy.checkpoints)[-2:]
    damage.do(checkpoints.path_of(copy.checkpoints, newest))
    log = copy.root.parent / "log"
    code = workshop.finish("train", "--resume", copy.root, log=log)
    said = log.read_text()
    if code != 0:
        return f"ended with exit code {code}: {said.strip().splitlines()[-1]}"
    if f"step_{newest:08d}" not in said or f"step {older}" not in said:
        return f"did not name step {newest} and step {older}: {said.splitlines()[0]}"
    difference = workshop.difference(copy)
    shutil.rmtree(copy.root)
    return difference


def _half_done(workshop: Workshop) -> Run:
    """A run that was stopped in the middle, at a save, with two checkpoints."""
    run, log = workshop.new_run(), workshop.new_folder("logs") / "log"
    config = workshop.config_file()
    code = workshop.finish("train", "--config", config, "--out", run.root, log=log, before=end_at, given=(8,))
    assert code == ENDED and checkpoints.steps(run.checkpoints) == [6, 8], log.read_text()
    return run


def end_at(step: int) -> None:
    """Plant: end this process right after the save of a step."""
    write = checkpoints.write

    def ending(folder: Path, checkpoint: checkpoints.Checkpoint, keep: int) -> Path:
        target = write(folder, checkpoint, keep)
        if checkpoint.step == step:
            os._exit(ENDED)
        return target

    checkpoints.write = ending


def _newest(run: Run) -> Path:
    return checkpoints.path_of(run.checkpoints, checkpoints.steps(run.checkpoints)[-1])


def _older(folder: Path) -> Path:
    return checkpoints.path_of(folder.parent, checkpoints.steps(folder.parent)[-2])


def _flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def _cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
