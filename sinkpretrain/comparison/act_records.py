"""The outcomes of a variant without and with ACT: by seed and item, from the evaluation records of its runs.

Letters: S seeds, I items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sinkpretrain.comparison.act_soundness import refuse_other_checkpoint, refuse_other_evaluation
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.statistics import Effect, Values, mean_effect
from sinkpretrain.mappings import to_mapping
from sinkpretrain.records import BOUNDED, VANILLA, changes, read_record
from sinkpretrain.runs import Run

RULES = ("act-paper", "act-corrected")
CONTROLS = ("random-heads", "equal-mass")  # of the first rule
CONDITIONS = (VANILLA, *RULES, *CONTROLS)
METRICS = (*BOUNDED, "logprob", "margin")
OF_ONE_RUN = ("model", "data", "text", "items", "limit", "tasks")  # in `about`; the items themselves are compared
OF_ONE_SEED = ("name", "seed")  # in a configuration


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The records of a variant's runs, one a seed, on the same items."""

    name: str
    runs: tuple[Run, ...]
    fewshot: int
    records: tuple[Mapping[str, Any], ...]  # of each run, as they were read
    chance: Mapping[str, float]  # by task
    values: Mapping[str, Mapping[str, Mapping[str, Values]]]  # by condition, task and metric: [S, I]
    heads: Mapping[str, tuple[int, ...]]  # how many were calibrated under a condition, by run
    met_sink: Mapping[str, tuple[int, ...]]  # how many of these saw a sink in the items

    def tasks(self, metric: str) -> list[str]:
        """The tasks that have a metric."""
        return [task for task, metrics in self.values[VANILLA].items() if metric in metrics]

    def metrics(self) -> list[str]:
        """The metrics that some task has."""
        return [metric for metric in METRICS if self.tasks(metric)]

    def level(self, metric: str, condition: str, tasks: Sequence[str]) -> Effect:
        """The mean of a metric over tasks."""
        return mean_effect([self.values[condition][task][metric] for task in tasks])

    def difference(self, metric: str, condition: str, other: str, tasks: Sequence[str]) -> Effect:
        """The mean over tasks of a condition minus another one, paired over seeds and items."""
        one, two = self.values[condition], self.values[other]
        differences = [one[task][metric] - two[task][metric] for task in tasks]
        return mean_effect(differences, bounded=metric in BOUNDED)

    def no_op(self, condition: str) -> str:
        """Why calibration changed nothing in any run, as far as the evaluation shows; empty where it did something."""
        if not any(self.heads[condition]):
            return "no head was chosen"
        return "" if any(self.met_sink[condition]) else "no chosen head saw a later sink in the test items"


def task_sets_of(runs: Sequence[Run], chosen: Sequence[str] = ()) -> list[str]:
    """The chosen task sets; else the only one that all runs have a record of with ACT.

    Raises:
        ConfigError: all runs have several, and none was chosen.
        DataError: a run without a record, or no task set that all runs share.
    """
    if chosen:
        return list(dict.fromkeys(chosen))
    found = {run: calibrated_sets(run) for run in runs}
    for run, sets in found.items():
        if not sets:
            raise DataError(f"{run.root}: no evaluation with ACT; {_commands(run, 'TASK ...')}")
    shared = sorted(set.intersection(*map(set, found.values())))
    if not shared:
        listed = "; ".join(f"{run.root} has {', '.join(sets)}" for run, sets in found.items())
        raise DataError(f"no task set was evaluated with ACT in every run: {listed}; evaluate them alike")
    if len(shared) > 1:
        raise ConfigError(f"--tasks: these runs have records of {', '.join(shared)}; choose with --tasks {shared[0]}")
    return shared


def calibrated_sets(run: Run) -> list[str]:
    """The task sets of a run that were evaluated with ACT by a rule."""
    return [name for name in run.evaluations() if set(RULES) & set(run.evaluation(name).get("conditions", {}))]


def variants_of(runs: Sequence[Run], task_sets: Sequence[str], needed: Sequence[str] = CONDITIONS) -> list[Variant]:
    """The variants of these runs, in the order in which they appear, with every condition that all their runs have.

    Raises:
        DataError: a run without a record or a condition that is needed, two runs of one seed, or runs that were
            configured or evaluated differently, with what differs.
    """
    read = {run: _read(run, task_sets, needed) for run in runs}
    first, *others = read
    for run in others:
        _refuse_other(first, read[first], run, read[run])
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.config().variant, []).append(run)
    return [_variant(name, members, [read[run] for run in members]) for name, members in grouped.items()]


def _read(run: Run, task_sets: Sequence[str], needed: Sequence[str]) -> dict[str, Any]:
    """The records of a run on these task sets as one."""
    joined: dict[str, Any] = {"about": {}, "conditions": {}}
    records = [_record(run, name, needed) for name in task_sets]
    refuse_other_evaluation(run, task_sets, records)
    refuse_other_checkpoint(run, records[0]["about"]["model"])
    for record in records:
        joined["about"] = joined["about"] or record["about"]
        for condition, entry in record["conditions"].items():
            merged = joined["conditions"].setdefault(condition, {"act": entry["act"], "tasks": {}})
            merged["tasks"] |= {task: of for task, of in entry["tasks"].items() if task not in merged["tasks"]}
            if entry["act"]:
                seen = {tuple(head) for act in (merged["act"], entry["act"]) for head in act["saw_sink"]}
                merged["act"] = {**merged["act"], "saw_sink": sorted(seen)}
    return joined


def _record(run: Run, task_set: str, needed: Sequence[str]) -> dict[str, Any]:
    """The record of a run on one task set, with every condition that is needed."""
    if not run.evaluation_path(task_set).is_file():
        others = ", ".join(run.evaluations()) or "none"
        raise DataError(f"{run.root}: no record of '{task_set}' (there are: {others}); {_commands(run, task_set)}")
    record = run.evaluation(task_set)
    missing = [condition for condition in needed if condition not in record["conditions"]]
    if missing:
        raise DataError(
            f"{run.root}: the record of '{task_set}' lacks {', '.join(missing)}; {_commands(run, task_set)}"
        )
    return record


def _commands(run: Run, task_set: str) -> str:
    tasks = task_set.replace("+", " ")
    act = f"sinkpretrain eval {run.root} --tasks {tasks} --act --controls"
    return f"make it with sinkpretrain calibrate {run.root} --tasks {tasks} and then {act}"


def _refuse_other(first: Run, one: Mapping[str, Any], run: Run, other: Mapping[str, Any]) -> None:
    """Raise where two runs were not evaluated alike."""

    def settings(record: Mapping[str, Any]) -> dict[str, Any]:
        used = {name: (entry["act"] or {}).get("settings") for name, entry in record["conditions"].items()}
        about = {key: value for key, value in record["about"].items() if key not in OF_ONE_RUN}
        return about | {name: used[name] for name in CONDITIONS if name in used}

    shared = [name for name in one["conditions"] if name in other["conditions"]]
    if listed := changes(_of(settings(one), shared), _of(settings(other), shared)):
        raise DataError(f"{run.root}: was evaluated otherwise than {first.root} ({listed}); evaluate them alike")
    items, others = (
        {task: of["items"]["hash"] for task, of in record["conditions"][VANILLA]["tasks"].items()}
        for record in (one, other)
    )
    if items.keys() != others.keys():
        listed = f"{', '.join(others)} instead of {', '.join(items)}"
        raise DataError(f"{run.root}: was evaluated on other tasks than {first.root} ({listed}); evaluate them alike")
    for task, hashes in items.items():
        if hashes != others[task]:
            counts = f"{len(others[task])} and {len(hashes)}, {len(set(hashes) & set(others[task]))} of them shared"
            raise DataError(f"{run.root}: {task} has other items than in {first.root} ({counts}); evaluate them alike")


def _of(settings: Mapping[str, Any], conditions: Sequence[str]) -> dict[str, Any]:
    """Settings without those of conditions that only one of two runs has."""
    return {key: value for key, value in settings.items() if key not in CONDITIONS or key in conditions}


def _variant(name: str, runs: Sequence[Run], records: Sequence[dict[str, Any]]) -> Variant:
    _refuse_unlike(name, runs)
    by_condition = {
        condition: [record["conditions"][condition] for record in records]
        for condition in records[0]["conditions"]
        if all(condition in record["conditions"] for record in records)
    }
    acts = {condition: [entry["act"] or {} for entry in entries] for condition, entries in by_condition.items()}

    def counted(key: str) -> dict[str, tuple[int, ...]]:
        return {condition: tuple(len(act.get(key, ())) for act in of) for condition, of in acts.items()}

    return Variant(
        name=name,
        runs=tuple(runs),
        fewshot=int(records[0]["about"].get("fewshot", 0)),
        records=tuple(records),
        chance={task: float(of["chance"]) for task, of in by_condition[VANILLA][0]["tasks"].items()},
        values={condition: _values(entries) for condition, entries in by_condition.items()},
        heads=counted("heads"),
        met_sink=counted("saw_sink"),
    )


def _values(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Values]]:
    """[S, I] by task and metric from the records of one condition."""
    return {
        task: {
            metric: np.array([entry["tasks"][task]["items"][metric] for entry in entries], dtype=np.float64)
            for metric in METRICS
            if metric in of["items"]
        }
        for task, of in entries[0]["tasks"].items()
    }


def _refuse_unlike(name: str, runs: Sequence[Run]) -> None:
    """Raise where the runs of a variant are not its seeds."""
    configs = [run.config() for run in runs]
    seeds: dict[int, Run] = {}
    for run, config in zip(runs, configs, strict=True):
        if config.seed in seeds:
            both = f"{seeds[config.seed].root} and {run.root}"
            raise DataError(f"{both} are both seed {config.seed} of '{name}'; give one run a seed and variant")
        seeds[config.seed] = run
    own, *others = [
        {key: value for key, value in to_mapping(config).items() if key not in OF_ONE_SEED} | _store(run)
        for run, config in zip(runs, configs, strict=True)
    ]
    for run, other in zip(runs[1:], others, strict=True):
        if listed := changes(own, other):
            raise DataError(
                f"{run.root}: is not a seed of the '{name}' of {runs[0].root} ({listed}); compare like runs"
            )


def _store(run: Run) -> dict[str, str]:
    """The fingerprint of the token store that a run was trained on; nothing of an imported model."""
    if not run.data_manifest_path.is_file():
        return {}
    manifest = read_record(run.data_manifest_path, "sinkpretrain train")
    return {"token store": str(manifest.get("fingerprint"))[:12]}
