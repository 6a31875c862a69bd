"""Whether runs began alike, by what each wrote down before its first step: its weights, its code and its versions.

Runs of one seed begin with equal values of the tensors that they share. Where they do not, a difference in loss is one
of luck as well, and nothing else would show it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from sinkpretrain.comparison.outcomes_of_runs import Outcome
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.records import read_record
from sinkpretrain.runs import Run

NAMED = 3  # tensors or runs, in a message
PACKAGES = ("sinkpretrain", "torch", "lightning", "tokenizers")  # that decide what a run computes
COMMIT, CHANGED = 12, "+"  # digits shown; at the end of a commit: files differed from it

Weights = Mapping[str, tuple[tuple[int, ...], str]]  # by name: shape, and SHA-256 of type, shape and bytes


def refuse_other_weights(outcomes: Sequence[Outcome]) -> None:
    """Raise where runs of one seed began with other values of the same tensors, or seeds of a variant with equal ones.

    Initial values depend on `model.init` and on the number of layers too; runs that differ in these are left to the
    remarks on their configurations. Runs without the record are left out.

    Raises:
        ConfigError: names two runs, and the first of the tensors.
        DataError: a record that cannot be read.
    """
    recorded = [(one, weights) for one in outcomes if (weights := _weights(one)) is not None]
    for (one, weights), (other, others) in combinations(recorded, 2):
        shared = [name for name in weights if name in others and weights[name][0] == others[name][0]]
        unlike = [name for name in shared if weights[name] != others[name]]
        if _scales(one) == _scales(other):
            _refuse_pair(one, other, shared, unlike)


def _refuse_pair(one: Outcome, other: Outcome, shared: Sequence[str], unlike: Sequence[str]) -> None:
    """Raise where two runs share too little of their initial values, or too much."""
    if one.seed == other.seed and unlike:
        raise ConfigError(
            f"{one.root} and {other.root} are both of seed {one.seed}, but of {len(shared)} tensors that they share "
            f"{len(unlike)} began with other values ({_some(unlike)}); their losses differ by that too. Train them "
            "with the same code and versions, on one kind of processor"
        )
    if one.seed != other.seed and one.variant == other.variant and shared and not unlike:
        raise ConfigError(
            f"{one.root} and {other.root} are seeds {one.seed} and {other.seed} of '{one.variant}', but began with "
            "the same values of all their tensors; they count as one run. Give one of them"
        )


def remarks_on_beginnings(outcomes: Sequence[Outcome]) -> list[str]:
    """Runs whose initial weights are not recorded, and runs of other or unknown code and versions than the first."""
    begun = [one for one in outcomes if one.config is not None]
    unknown = [one.root.name for one in begun if not Run(one.root).initial_weights_path.is_file()]
    found = [f"With which weights {_count(unknown, begun)} began is not recorded: {_some(unknown)}"] if unknown else []
    software = {one: _software(one) for one in begun}
    others: dict[str, list[str]] = {}
    for one in begun[1:]:
        first, own = software[begun[0]], software[one]
        parts = [f"{key} {own[key]} instead of {first[key]}" for key in first if own.get(key, first[key]) != first[key]]
        if parts:
            others.setdefault("; ".join(parts), []).append(one.root.name)
    found += [f"Other code than {begun[0].root.name} ran {_some(names)}: {parts}" for parts, names in others.items()]
    changed = [one.root.name for one in begun if software[one].get("commit", "").endswith(CHANGED)]
    if changed:
        found.append(
            f"Files differed from the commit in {_count(changed, begun)}, so the code may have: {_some(changed)}"
        )
    return found


def _count(some: Sequence[str], every: Sequence[Outcome]) -> str:
    return f"{len(some)} of {len(every)} runs"


def _some(names: Sequence[str]) -> str:
    """The first few of some names."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _scales(outcome: Outcome) -> tuple[str, int]:
    """What the spread of initial values depends on beside a tensor's name and shape."""
    assert outcome.config is not None
    return outcome.config.model.init, outcome.config.model.n_layers


def _weights(outcome: Outcome) -> Weights | None:
    """The record of a run's initial weights; None where it has none."""
    path = Run(outcome.root).initial_weights_path
    if outcome.config is None or not path.is_file():
        return None
    record = read_record(path, "sinkpretrain train")
    try:
        return {name: (tuple(of["shape"]), str(of["sha256"])) for name, of in record.items()}
    except (TypeError, KeyError):
        raise DataError(
            f"{path}: is not a record of initial weights; it was altered. Delete it, and the comparison says that it "
            "is not known with which weights the run began"
        ) from None


def _software(outcome: Outcome) -> dict[str, str]:
    """Commit and versions that a run wrote down; what it did not is left out."""
    path = Run(outcome.root).root / "environment.json"
    try:
        environment: Any = json.loads(path.read_text(encoding="utf-8"))
        return dict(_known(environment))
    except (OSError, ValueError, AttributeError):
        return {}


def _known(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    versions = environment.get("versions", {})
    named = {"commit": environment.get("commit"), **{package: versions.get(package) for package in PACKAGES}}
    for name, value in named.items():
        if value is not None:
            yield name, _short(value) if name == "commit" else str(value)


def _short(commit: str) -> str:
    return commit.removesuffix(CHANGED)[:COMMIT] + (CHANGED if commit.endswith(CHANGED) else "")
