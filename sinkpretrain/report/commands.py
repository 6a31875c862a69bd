"""The commands that make the data, the runs, their interventions and the page again."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sinkpretrain.comparison.experiment import read_experiment
from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError
from sinkpretrain.figures.base.arms import config_of
from sinkpretrain.mappings import difference
from sinkpretrain.records import HELD_OUT, identity
from sinkpretrain.report.scope import Scope
from sinkpretrain.report.tables import imported, read_json
from sinkpretrain.runs import Run

AGAIN = "again"  # the folder of the runs made again
RECIPE_END = "END_OF_RECIPE"


def commands(scope: Scope, out: Path) -> str:
    """One command a line; each token store first, from the recipe that its manifest holds."""
    lines = _stores(scope.trained)
    folders = {run: f"{AGAIN}/{run.name}" for run in scope.runs}
    if scope.experiment is not None and scope.whole:
        lines += _sweep(scope, scope.experiment)
    else:
        lines += [_line(_begin(run, folder)) for run, folder in folders.items()]
    for run, folder in folders.items():
        lines += [_line(_intervene(run, name, folder)) for name in run.interventions()]
    if scope.experiment is not None and scope.whole:
        root = f"{AGAIN}/{scope.experiment['name']}"
        ends = [["compare", root], ["plot", "all", root], ["report", root]]
    else:
        ends = [["report", *(str(run.root) for run in scope.runs), "--out", str(out)]]
    return "\n".join(lines + [_line(command) for command in ends])


def _line(command: Sequence[str]) -> str:
    return shlex.join(["sinkpretrain", *command])


def _stores(runs: Sequence[Run]) -> list[str]:
    """What makes each token store again: its recipe, written to a file, and the command that prepares it."""
    manifests: dict[str, Any] = {}
    for run in runs:
        manifests.setdefault(config_of(run).data.store, read_json(run, run.data_manifest_path.name))
    lines = []
    for place, (store, manifest) in enumerate(manifests.items()):
        if isinstance(manifest, dict) and isinstance(manifest.get("recipe"), dict):  # of a text, a line could end it
            file = "recipe.yaml" if len(manifests) == 1 else f"recipe_{place}.yaml"
            recipe = yaml.safe_dump(manifest["recipe"], sort_keys=False, allow_unicode=True).rstrip()
            lines += [f"cat > {file} << '{RECIPE_END}'", *recipe.split("\n"), RECIPE_END]
            lines.append(_line(["prepare", file, "--out", store]))
    return lines


def _sweep(scope: Scope, experiment: dict[str, Any]) -> list[str]:
    """The command that makes an experiment's runs again, checked against its file; each run's, where it would not."""
    source = str(experiment["source"])
    command = ["sweep", source, "--out", AGAIN]
    try:
        if not Path(source).is_file():  # nor a device that never ends
            raise ConfigError(f"{source}: no such file")
        planned = {member.folder: identity(member.config) for member in read_experiment(source).members}
    except ConfigError as error:
        return [f"# not checked against its file: {' '.join(str(error).split())}", _line(command)]
    changed = [_changed(planned.get(run.root.name, {}), config_of(run)) for run in scope.trained]
    given = changed[0] if changed else {}
    same = {entry["folder"] for entry in experiment["runs"]} == set(planned)
    if same and all(one == given for one in changed):
        return [_line([*command, *(part for key, value in given.items() for part in (f"--{key}", _yaml(value)))])]
    runs = [_line(_begin(run, f"{AGAIN}/{experiment['name']}/{run.root.name}")) for run in scope.trained]
    return [
        f"# {' '.join(source.split())} now says something else than what these runs were started with; one by one:",
        *runs,
    ]


def _changed(planned: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The keys of a run's configuration that its experiment's file does not account for."""
    changed = {key: now for key, (_, now) in difference(planned, identity(config)).items()}
    if planned and planned["model"]["vocab_size"] is None:
        changed.pop("model.vocab_size", None)  # which comes from the token store
    return changed


def _yaml(value: Any) -> str:
    """A value as the command line reads it."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()


def _begin(run: Run, folder: str) -> list[str]:
    """The command that makes one run again."""
    if imported(run):
        return ["import", str(read_json(run, run.source_path.name)["source"]), folder]
    return ["train", "--config", str(run.config_path), "--out", folder]


def _intervene(run: Run, name: str, folder: str) -> list[str]:
    """The command that makes a record of an intervention again, in another folder."""
    record, config = run.intervention(name), config_of(run)
    about = record["about"]
    strengths = sorted({row["strength"] for row in record["rows"] if row["condition"] == name})
    options = {
        "--position": about.get("positions", [about["position"]]),
        "--layer": [] if len(about["layers"] or ()) in (0, config.model.n_layers) else about["layers"],
        "--strength": [] if strengths == [1.0] else strengths,  # an intervention without strengths has 1
        "--at": [] if about.get("at", "all") == "all" else [about["at"]],
        "--tokens": [about["tokens"]],
        "--sequences": [about["sequences"]],
        "--seeds": [len(about["seeds"])],
        "--bos": [] if about["bos"] == config.data.bos else [about["bos"]],
        "--text": [] if about["text"] == HELD_OUT else [about["text"]],
    }
    given = [part for option, values in options.items() if values for part in (option, *map(str, values))]
    return ["intervene", folder, "--with", name, *given]
