"""Token stores that were damaged on the disk, mixed up with another one, or replaced under a run."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from matrix import planting
from matrix.fault import Fault, Trial
from matrix.token_damages import DAMAGES, Damage, any_flip
from matrix.workshop import Workshop
from sinkpretrain.data.prepare import prepare
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import DataError, ResumeError
from sinkpretrain.runs import Run

SHARD_TOKENS = 20_000
TRAINED = 13  # every so many damages meet the command line instead of the store's own check
RESUMED = 120  # every so many trials are a run that goes on


class CorruptTokens(Fault):
    """One damage in thirteen meets `train`, the others `TokenStore.open(...).verify()`, which is what it calls."""

    place = 6
    name = "corrupt_tokens"
    how = "flips, truncations, tails, missing files, swapped and foreign shards, tokens beyond the vocabulary"
    must_hold = "refused before step 1 with the file's name; another store under a run that goes on too; 0 silent"
    quick = 52
    full = 600

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """Damages of all kinds in turn, each to a copy of the store."""
        sound, foreign = _store(workshop, "sound", 512), _store(workshop, "foreign", 500)
        for number in range(count):
            if number % RESUMED < 2:
                yield _resumed(workshop, sound, foreign, damaged=number % RESUMED == 1)
                continue
            damage = DAMAGES[number % len(DAMAGES)](workshop.random, sound, foreign)
            folder = workshop.new_folder("stores") / "store"
            shutil.copytree(sound.root, folder)
            damage.do(folder)
            changed = _changed(sound.root, folder)
            assert changed, f"{damage.what}: nothing was injected"
            trained = number % TRAINED == TRAINED - 1
            happened = (_after_training if trained else _after_reading)(workshop, folder, damage)
            shutil.rmtree(folder.parent)
            what = f"{damage.kind}: {damage.what}{', then train' if trained else ''}"
            yield Trial(what=what, held=not happened, happened=happened)

    def measured(self, trials: Sequence[Trial]) -> str:
        """How many of each kind, and how many met a run."""
        kinds = Counter(trial.what.partition(":")[0] for trial in trials)
        trained = sum(trial.what.endswith("then train") for trial in trials)
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + f"; {trained} through train"


def _store(workshop: Workshop, name: str, vocab_size: int) -> TokenStore:
    """The workshop's prose in several shards; equal arguments give an equal store."""
    path = workshop.store.root.parent / f"{name}.yaml"
    recipe = {
        "sources": [{"name": "files", "path": "topics.jsonl"}],
        "tokenizer": {"name": "train", "vocab_size": vocab_size},
        "validation_fraction": 0.1,
        "shard_tokens": SHARD_TOKENS,
    }
    path.write_text(yaml.safe_dump(recipe))
    store = prepare(path)
    assert len(store.manifest["splits"]["train"]["shards"]) > 3, "swapping shards needs several"
    return store


def _changed(one: Path, other: Path) -> list[str]:
    """Names of the files that differ between two folders."""
    names = {path.name for path in one.iterdir()} | {path.name for path in other.iterdir()}
    return [name for name in names if _content(one / name) != _content(other / name)]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _after_reading(workshop: Workshop, folder: Path, damage: Damage) -> str:
    """What happened instead of a refusal when the store was checked."""
    try:
        TokenStore.open(folder).verify()
    except DataError as error:
        return "" if _is_named(damage, folder, str(error)) else f"refused without the file: {error}"
    return "nothing was noticed"


def _after_training(workshop: Workshop, folder: Path, damage: Damage) -> str:
    """What happened instead of a refusal when a run was to be trained on the store."""
    run = workshop.new_run()
    log = run.root.parent / "log"
    config = workshop.config_file({"data": {"store": str(folder)}})
    code = workshop.finish("train", "--config", config, "--out", run.root, log=log)
    said = log.read_text()
    if code != DataError.exit_code:
        return f"train ended with {code}: {said[-300:]}"
    if not _is_named(damage, folder, said) or "Traceback" in said:
        return f"refused without the file: {said[-300:]}"
    begun = [path.name for path in (run.metrics_path, run.checkpoints) if path.exists()]
    return f"refused, but there is {', '.join(begun)}" if begun else ""


def _is_named(damage: Damage, folder: Path, message: str) -> bool:
    return any(str(folder / name) in message for name in damage.names)


def _resumed(workshop: Workshop, sound: TokenStore, foreign: TokenStore, *, damaged: bool) -> Trial:
    """A run is killed, its store damaged or replaced by a sound one of the same text, and the run is to go on."""
    run, folder = workshop.new_run(), workshop.new_folder("stores") / "store"
    shutil.copytree(sound.root, folder)
    log = run.root.parent / "log"
    config = workshop.config_file({"data": {"store": str(folder)}})
    _train_a_part(workshop, config, run, log)
    before = _contents(run)
    if damaged:
        damage = any_flip(workshop.random, sound, foreign)
        damage.do(folder)
    else:
        shutil.rmtree(folder)
        shutil.copytree(foreign.root, folder)
        TokenStore.open(folder).verify()
    expected = DataError.exit_code if damaged else ResumeError.exit_code
    code = workshop.finish("train", "--resume", run.root, log=log)
    what = f"runs that go on: on {'a damaged store' if damaged else 'another store in its place'}"
    if code != expected or _contents(run) != before:
        return Trial(what=what, held=False, happened=f"--resume ended with {code}: {log.read_text()[-300:]}")
    shutil.rmtree(folder)
    shutil.copytree(sound.root, folder)
    code = workshop.finish("train", "--resume", run.root, log=log)
    return Trial(what=what, held=code == 0, happened="" if code == 0 else f"the right store was refused with {code}")


def _train_a_part(workshop: Workshop, config: Path, run: Run, log: Path) -> None:
    """Let a run be killed in its sixth step, after two checkpoints."""
    plan = (str(log.with_name("evidence")), [("step", 5, "SIGKILL", "self")])
    code = workshop.finish("train", "--config", config, "--out", run.root, log=log, before=planting.signals, given=plan)
    assert code == -9 and list(run.checkpoints.glob("step_*")), log.read_text()


def _contents(run: Run) -> dict[str, bytes]:
    """The record and the checkpoints of a run."""
    paths = [run.metrics_path, *run.checkpoints.rglob("*")]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}
