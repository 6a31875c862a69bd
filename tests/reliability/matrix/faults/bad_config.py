"""Files in which one value is of another type or out of range: configurations, experiments, recipes."""

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import yaml

from matrix.bad_files import of_a_recipe, of_an_experiment, of_slurm
from matrix.bad_values import Bad, of_a_config
from matrix.fault import Fault, Trial
from matrix.workshop import Workshop
from sinkpretrain.cli import run
from sinkpretrain.errors import ConfigError
from sinkpretrain.mappings import merge

CASES = [
    *[("config", bad) for bad in of_a_config()],
    *[("experiment", bad) for bad in of_an_experiment()],
    *[("slurm", bad) for bad in of_slurm()],
    *[("recipe", bad) for bad in of_a_recipe()],
]
EXPERIMENT = {"variants": {"a": {}, "b": {}}, "seeds": [0, 1]}
RECIPE = {
    "sources": [{"name": "files", "path": "topics.jsonl"}],
    "tokenizer": {"name": "train", "vocab_size": 512},
    "validation_fraction": 0.1,
}


class BadConfig(Fault):
    """Each goes through the command line of this process: nothing of it lives to be killed."""

    place = 12
    name = "bad_config"
    how = "every field of a configuration, experiment and recipe of a wrong type, and out of range"
    must_hold = "refused with key, value and allowed values (exit 2), no folder made"
    quick = full = len(CASES)

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """All there are."""
        with _sbatch_that_fails(workshop):
            for kind, bad in CASES[:count]:
                happened = _after(workshop, kind, bad)
                yield Trial(what=f"{kind}: {bad.what}", held=not happened, happened=happened)

    def measured(self, trials: Sequence[Trial]) -> str:
        """How many for each kind of file."""
        kinds = Counter(trial.what.partition(":")[0] for trial in trials)
        return ", ".join(f"{count} of {kind}" for kind, count in kinds.items())


def _after(workshop: Workshop, kind: str, bad: Bad) -> str:
    """What happened instead of a clear refusal."""
    folder = workshop.new_folder("bad")
    file, out = folder / "file.yaml", folder / "out"
    sound = {
        "config": workshop.mapping(),
        "experiment": {**workshop.mapping(), **EXPERIMENT},
        "slurm": {**workshop.mapping(), **EXPERIMENT},
        "recipe": RECIPE,
    }[kind]
    content = {**sound, **bad.content} if kind != "config" else merge(sound, bad.content)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    arguments = {
        "config": ["train", "--config", file, "--out", out],
        "experiment": ["sweep", file, "--out", out, "--dry-run"],
        "slurm": ["sweep", file, "--out", out, "--launcher", "slurm"],
        "recipe": ["prepare", file, "--out", out],
    }[kind]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = run([*map(str, arguments)])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    message = said.getvalue()
    if code != ConfigError.exit_code or not re.search(bad.says, message):
        return f"ended with {code}: {message[-300:]}"
    made = sorted(path.name for path in folder.iterdir() if path != file)
    return f"refused, but made {', '.join(made)}" if made else ""


@contextlib.contextmanager
def _sbatch_that_fails(workshop: Workshop) -> Iterator[None]:
    """A cluster that takes no job: what is wrong is to be found before it is asked."""
    folder = workshop.new_folder("cluster")
    (folder / "sbatch").write_text("#!/bin/sh\necho no job is taken here >&2\nexit 1\n")
    (folder / "sbatch").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before
