"""An experiment file: what its runs share, the seeds, and each variant's differences.

```yaml
base: [../base.yaml, ../model/tiny.yaml]
question: Does head-wise RMSNorm learn as fast as softmax attention?
baseline: softmax        # what the other variants are compared with; the first variant where it is left out
tokens: 20_000_000
seeds: [0, 1, 2]
slurm: {partition: gpu, hours: 24}
variants:
  softmax: {base: ../attention/softmax.yaml}
  head_rmsnorm: {base: ../attention/head_rmsnorm.yaml, optimizer: {learning_rate: [1.0e-3, 2.0e-3]}}
```
A list of learning rates makes a run of each. What the file says is kept as `experiment.json` beside the runs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError
from sinkpretrain.files import write_json
from sinkpretrain.mappings import build, merge, read_yaml, resolve_base
from sinkpretrain.records import read_record

RECORD = "experiment.json"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of an experiment: its folder is `<experiment>/<folder>`."""

    folder: str
    config: Config


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A question and the runs that are to answer it, variant by variant."""

    name: str
    question: str
    baseline: str
    members: list[Member]
    source: Path
    slurm: dict[str, Any] = field(default_factory=dict)  # how a Slurm cluster runs it; no part of any run

    def write_record(self, root: Path) -> None:
        """Keep what reports and comparisons need beside the runs, those that have not begun among them."""
        runs = [
            {
                "folder": member.folder,
                "variant": member.config.variant,
                "seed": member.config.seed,
                "learning_rate": member.config.optimizer.learning_rate,
            }
            for member in self.members
        ]
        about = {key: value for key, value in asdict(self).items() if key in ("name", "question", "baseline", "slurm")}
        write_json(root / RECORD, {**about, "source": str(self.source), "runs": runs})


def read_experiment_record(root: Path) -> dict[str, Any] | None:
    """`name`, `question`, `baseline`, `source`, `slurm` and `runs` (folder, variant, seed, learning rate) of an
    experiment's folder; None where it was not made by a sweep.

    Raises:
        DataError: the record cannot be read.
    """
    path = root / RECORD
    return read_record(path, "sinkpretrain sweep EXPERIMENT.yaml") if path.exists() else None


def read_experiment(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """An experiment from its file; its name is `name`, or the file's. Overrides apply to every run, over what a variant
    says.

    Raises:
        ConfigError: no variants, no seeds, a baseline that is no variant, or a configuration that is refused, with the
            variant's name.
    """
    path = Path(path)
    overrides = dict(overrides or {})
    content = merge(read_yaml(path), overrides)
    own = {key: content.pop(key, None) for key in ("variants", "seeds", "question", "baseline", "slurm")}
    for key in own:
        overrides.pop(key, None)
    variants, seeds = own["variants"], [0] if own["seeds"] is None else own["seeds"]
    if not isinstance(variants, dict) or not variants:
        raise ConfigError(f"{path}: variants: {variants!r} is not a mapping of names to differences; name at least one")
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
        raise ConfigError(f"{path}: seeds: {seeds!r} is not a list of whole numbers, as in [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: seeds: {seeds} names a seed twice")
    baseline = next(iter(variants)) if own["baseline"] is None else own["baseline"]
    if baseline not in list(variants):
        raise ConfigError(f"{path}: baseline: {baseline!r} is not one of the variants: {', '.join(map(str, variants))}")
    slurm = {} if own["slurm"] is None else own["slurm"]
    if not isinstance(slurm, dict):
        raise ConfigError(f"{path}: slurm: {slurm!r} is not a mapping, as in {{partition: gpu, hours: 24}}")
    name, question = content.get("name", path.stem), "" if own["question"] is None else own["question"]
    for key, text in (("name", name), ("question", question)):
        if not isinstance(text, str):
            raise ConfigError(f"{path}: {key}: {text!r} is not text")
    members = []
    for variant, differences in variants.items():
        if not isinstance(differences, dict | None):
            raise ConfigError(f"{path}: variants.{variant}: {differences!r} is not a mapping of keys to values")
        resolved = resolve_base(differences or {}, path)
        shared = merge(merge(content, resolved), {**overrides, "name": name, "variant": variant})
        for rate, suffix in _learning_rates(shared):
            for seed in seeds:
                members.append(_member(path, merge(shared, {**rate, "seed": seed}), f"{variant}{suffix}-s{seed}"))
    return Experiment(
        name=name,
        question=question,
        baseline=baseline,
        members=members,
        source=path,
        slurm=slurm,
    )


def _learning_rates(shared: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The override and the folder suffix of each learning rate; one without a suffix where there is no list."""
    optimizer = shared.get("optimizer")
    rates = optimizer.get("learning_rate") if isinstance(optimizer, Mapping) else None
    if not isinstance(rates, list) or not rates:
        return [({}, "")]  # what is neither a number nor a list is refused with the rest of the run
    return [({"optimizer": {"learning_rate": rate}}, _suffix(rate)) for rate in rates]


def _suffix(rate: Any) -> str:
    try:
        return f"-lr{float(rate):g}"
    except (TypeError, ValueError):
        return f"-lr{rate}"  # refused with the rest of its run


def _member(path: Path, mapping: dict[str, Any], folder: str) -> Member:
    try:
        return Member(folder=folder, config=build(Config, mapping, ""))
    except ConfigError as error:
        raise ConfigError(f"{path}: {folder}: {error}") from None
