"""An experiment file: what its runs share, the seeds, and each variant's differences.

```yaml
base: [../base.yaml, ../model/tiny.yaml]
tokens: 20_000_000
seeds: [0, 1, 2]
variants:
  softmax: {base: ../attention/softmax.yaml}
  head_rmsnorm: {base: ../attention/head_rmsnorm.yaml, optimizer: {learning_rate: [1.0e-3, 2.0e-3]}}
```
A list of learning rates makes a run of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError
from sinkpretrain.mappings import build, merge, read_yaml, resolve_base


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of an experiment: its folder is `<experiment>/<folder>`."""

    folder: str
    config: Config


def read_experiment(path: Path | str, overrides: Mapping[str, Any] | None = None) -> tuple[str, list[Member]]:
    """The name of an experiment (its `name`, or the file's) and its runs, variant by variant.

    Overrides apply to every run, over what a variant says.

    Raises:
        ConfigError: no variants, no seeds, or a configuration that is refused, with the variant's name.
    """
    path = Path(path)
    overrides = dict(overrides or {})
    content = merge(read_yaml(path), overrides)
    variants, seeds = content.pop("variants", None), content.pop("seeds", [0])
    overrides.pop("seeds", None)
    if not isinstance(variants, dict) or not variants:
        raise ConfigError(f"{path}: variants: {variants!r} is not a mapping of names to differences; name at least one")
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
        raise ConfigError(f"{path}: seeds: {seeds!r} is not a list of whole numbers, as in [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: seeds: {seeds} names a seed twice")
    name = str(content.get("name", path.stem))
    members = []
    for variant, differences in variants.items():
        resolved = resolve_base(differences or {}, path)
        shared = merge(merge(content, resolved), {**overrides, "name": name, "variant": variant})
        for rate, suffix in _learning_rates(shared):
            for seed in seeds:
                members.append(_member(path, merge(shared, {**rate, "seed": seed}), f"{variant}{suffix}-s{seed}"))
    return name, members


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
