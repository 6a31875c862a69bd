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
    baseline = own["baseline"] or next(iter(variants))
    if baseline not in variants:
        raise ConfigError(f"{path}: baseline: {baseline!r} is not one of the variants: {', '.join(map(str, variants))}")
    if not isinstance(own["slurm"] or {}, dict):
        raise ConfigError(f"{path}: slurm: {own['slurm']!r} is not a mapping, as in {{partition: gpu, hours: 24}}")
    name = str(content.get("name", path.stem))
    members = []
    for variant, differences in variants.items():
        resolved = resolve_base(differences or {}, path)
        shared = merge(merge(content, resolved), {**overrides, "name": name, "variant": variant})
        for rate, suffix in _learning_rates(shared):
            for seed in seeds:
                members.append(_member(path, merge(shared, {**rate, "seed": seed}), f"{variant}{suffix}-s{seed}"))
    return Experiment(
        name=name,
        question=str(own["question"] or ""),
        baseline=baseline,
        members=members,
        source=path,
        slurm=own["slurm"] or {},
    )


def _learning_rates(shared: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The override and the folder suffix of each learning rate; one without a suffix where there is no list."""
    rates = shared.get("optimizer", {}).get("learning_rate")
    if not isinstance(rates, list):
        return [({}, "")]
    return [({"optimizer": {"learning_rate": rate}}, f"-lr{float(rate):g}") for rate in rates]


def _member(path: Path, mapping: dict[str, Any], folder: str) -> Member:
    try:
        return Member(folder=folder, config=build(Config, mapping, ""))
    except ConfigError as error:
        raise ConfigError(f"{path}: {folder}: {error}") from None
