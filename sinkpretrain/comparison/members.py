"""What every launcher asks of an experiment's runs: their files, their commands, whether they changed, their end."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from sinkpretrain.comparison.experiment import Experiment, Member
from sinkpretrain.errors import NonFiniteError, ResumeError
from sinkpretrain.files import write_atomically
from sinkpretrain.mappings import to_mapping
from sinkpretrain.runs import Run


def prepare(experiment: Experiment, root: Path) -> dict[str, Run]:
    """Write each run's resolved configuration and the experiment's record; the runs by their folder.

    Raises:
        ResumeError: a run there was started with another configuration; nothing is written. Names the difference.
    """
    runs = {member.folder: Run(root / member.folder) for member in experiment.members}
    _refuse_changed(experiment, runs)
    for member in experiment.members:
        text = yaml.safe_dump(to_mapping(member.config), sort_keys=False)
        write_atomically(config_file(member, root), text.encode())
    experiment.write_record(root)
    return runs


def _refuse_changed(experiment: Experiment, runs: Mapping[str, Run]) -> None:
    """Raise where runs were started with other configurations; variants and seeds may come and go."""
    changed: dict[str, ResumeError] = {}
    for member in experiment.members:
        try:
            if runs[member.folder].config_path.exists():
                runs[member.folder].refuse_other_config(member.config)
        except ResumeError as error:
            changed[member.folder] = error
    if changed:
        first, *others = changed
        more = f"; {len(others)} more runs were changed: {', '.join(others)}" if others else ""
        advice = f"Nothing was started: undo the change in {experiment.source}, or give it another name"
        raise ResumeError(f"{changed[first]}{more}. {advice}")


def config_file(member: Member, root: Path) -> Path:
    """Where a run's resolved configuration lies for its process to read."""
    return root / "configs" / f"{member.folder}.yaml"


def command(member: Member, root: Path) -> list[str]:
    """The command that brings one run to its end, whether it has begun or not."""
    train = [sys.executable, "-m", "sinkpretrain", "train", "--continue"]
    return [*train, "--config", str(config_file(member, root)), "--out", str(root / member.folder)]


def diverged_error(root: Path, lines: Sequence[str], count: int) -> NonFiniteError:
    """The error of a sweep of `count` runs of which some diverged, a line each, and the others are done."""
    head = f"{root}: {len(lines)} of {count} runs diverged (a loss that is not finite), the others are done"
    advice = "they stay in the comparison; delete a run's folder to train it anew:"
    return NonFiniteError("\n".join([f"{head}; {advice}", *lines]))


def final_state(status: Mapping[str, Any]) -> Literal["done", "diverged"] | None:
    """`done`, or `diverged` (its loss was not finite: an outcome, not tried again), by a run's status; else None."""
    if status.get("state") == "failed" and str(status.get("error")).startswith(NonFiniteError.__name__):
        return "diverged"
    return "done" if status.get("state") == "done" else None
