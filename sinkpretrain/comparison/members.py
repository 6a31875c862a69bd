"""What every launcher does with an experiment's runs: their files, their commands, and the refusal of changed ones."""

import sys
from pathlib import Path

import yaml

from sinkpretrain.comparison.experiment import Experiment, Member
from sinkpretrain.mappings import to_mapping
from sinkpretrain.runs import Run


def prepare(experiment: Experiment, root: Path) -> dict[str, Run]:
    """Write each run's resolved configuration and the experiment's record; the runs by their folder.

    Raises:
        ResumeError: a run there was started with another configuration; nothing is written. Names the difference.
    """
    runs = {member.folder: Run(root / member.folder) for member in experiment.members}
    for member in experiment.members:
        if runs[member.folder].config_path.exists():
            runs[member.folder].refuse_other_config(member.config)
    for member in experiment.members:
        path = config_file(member, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(to_mapping(member.config), sort_keys=False), encoding="utf-8")
    experiment.write_record(root)
    return runs


def config_file(member: Member, root: Path) -> Path:
    """Where a run's resolved configuration lies for its process to read."""
    return root / "configs" / f"{member.folder}.yaml"


def command(member: Member, root: Path) -> list[str]:
    """The command that brings one run to its end, whether it has begun or not."""
    train = [sys.executable, "-m", "sinkpretrain", "train", "--continue"]
    return [*train, "--config", str(config_file(member, root)), "--out", str(root / member.folder)]
