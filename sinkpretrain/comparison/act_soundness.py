"""Whether records of ACT are of the model, the heads and the items that they are read together with.

A run folder collects them over time: a head search may be repeated after the evaluation, a checkpoint be trained on,
another one be evaluated on a second set of tasks. Each record is then whole, and their comparison is of nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from sinkpretrain.errors import DataError
from sinkpretrain.records import VANILLA, changes
from sinkpretrain.runs import Run

RULE_OF = {"act-paper": "paper", "act-corrected": "corrected", "equal-mass": "paper"}  # whose heads a condition has
DIFFERS = {"equal-mass": "columns"}  # the setting that makes a control of a condition
OF_ONE_SET = ("tasks", "items")  # in `about`: may differ between the task sets of a run
NAMED = 3

Record = Mapping[str, Any]


def refuse_other_evaluation(run: Run, names: Sequence[str], records: Sequence[Record]) -> None:
    """Raise where a run's records on several task sets are of other checkpoints, settings or heads.

    Raises:
        DataError: names two records and the difference.
    """
    for name, record in zip(names[1:], records[1:], strict=True):
        pairs = [(_about(records[0]), _about(record))]
        for condition in sorted(records[0]["conditions"].keys() & record["conditions"].keys()):
            pairs.append((_act(records[0], condition), _act(record, condition)))
        for first, other in pairs:
            if listed := changes(first, other):
                raise DataError(
                    f"{run.evaluation_path(name)}: was made otherwise than that of '{names[0]}' ({listed}); evaluate "
                    "both task sets alike"
                )


def search_of(run: Run, record: Record) -> Record:
    """The head search behind a run's evaluation.

    Raises:
        DataError: there is none; or it is of another checkpoint, of other settings, chose other heads than were
            evaluated, or chose them on items that they are judged by.
    """
    search, sha256 = run.heads(), str(record["about"]["model"]["sha256"])
    if search["model"]["sha256"] != sha256:
        raise DataError(
            f"{run.heads_path}: is of another checkpoint (SHA-256 {search['model']['sha256'][:12]}) than was evaluated "
            f"({sha256[:12]}); repeat sinkpretrain calibrate {run.root} and sinkpretrain eval {run.root}"
        )
    _refuse_other_heads(run, search, record["conditions"])
    searched = {hashed for task in search["tasks"].values() for hashed in task.get("hashes", ())}
    for task, of in record["conditions"][VANILLA]["tasks"].items():
        if shared := searched & set(of["items"]["hash"]):
            raise DataError(
                f"{run.heads_path}: heads were chosen on {len(shared)} of the items of {task} that they are judged by; "
                f"repeat sinkpretrain calibrate {run.root} and sinkpretrain eval {run.root}"
            )
    return search


def _refuse_other_heads(run: Run, search: Record, conditions: Record) -> None:
    again = f"repeat sinkpretrain eval {run.root}, or bring that head search back"
    for condition, rule in RULE_OF.items():
        act = conditions.get(condition, {}).get("act")
        if not act:
            continue
        ignored = DIFFERS.get(condition)
        own, used = ({key: of[key] for key in of if key != ignored} for of in (search["settings"], act["settings"]))
        if listed := changes(own, used):
            raise DataError(f"{run.heads_path}: '{condition}' was evaluated with other settings ({listed}); {again}")
        chosen, calibrated = (sorted(map(tuple, heads)) for heads in (search["rules"].get(rule, []), act["heads"]))
        if chosen != calibrated:
            raise DataError(
                f"{run.heads_path}: '{condition}' was evaluated with {len(calibrated)} heads, the search has "
                f"{len(chosen)} for '{rule}', and {len(set(chosen) & set(calibrated))} are in both; {again}"
            )


def refuse_other_checkpoint(run: Run, model: Record) -> None:
    """Raise where the checkpoint that was evaluated is there and holds other weights now.

    Raises:
        DataError: names the checkpoint and both hashes.
    """
    now = _weights_sha256(run, model["step"])
    if now is not None and now != model["sha256"]:
        raise DataError(
            f"{run.checkpoints}: step {model['step']} holds other weights (SHA-256 {now[:12]}) than were evaluated "
            f"({model['sha256'][:12]}); repeat sinkpretrain calibrate {run.root} and sinkpretrain eval {run.root}"
        )


def remarks(runs: Sequence[Run], models: Sequence[Record], searches: Sequence[Record]) -> list[str]:
    """What a reader must know of the records: checkpoints that differ in step or are gone, unlike head searches."""
    steps = {run: (int(model["step"]), max(_steps(run), default=0)) for run, model in zip(runs, models, strict=True)}
    gone = [run.name for run in runs if _weights_sha256(run, steps[run][0]) is None]
    early = [f"{run.name} at step {step} of {last}" for run, (step, last) in steps.items() if last > step]
    found = []
    if gone:
        found.append(f"The evaluated checkpoint is not there any more, so its hash was not checked: {_some(gone)}")
    if early:
        found.append(f"Evaluated before the last checkpoint: {_some(early)}")
    if len(listed := list(_grouped(runs, [f"step {step}" for step, _ in steps.values()]))) > 1:
        found.append(f"Evaluated at different steps: {'; '.join(listed)}")
    if len(listed := list(_grouped(runs, [_searched(search) for search in searches]))) > 1:
        found.append(f"Heads were searched on different items: {'; '.join(listed)}")
    return found


def _about(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record["about"].items() if key not in OF_ONE_SET}


def _act(record: Record, condition: str) -> dict[str, Any]:
    """What ACT was in a condition, but for what it met there."""
    act = record["conditions"][condition]["act"] or {}
    return {condition: {key: act.get(key) for key in ("rule", "heads", "settings")}}


def _steps(run: Run) -> list[int]:
    names = (path.name.removeprefix("step_") for path in run.checkpoints.glob("step_*"))
    return [int(name) for name in names if name.isdigit()]


def _weights_sha256(run: Run, step: int) -> str | None:
    """The hash of a checkpoint's weights as its manifest has it; None without one. Reads no tensors."""
    try:
        manifest = json.loads((run.checkpoints / f"step_{step:08d}" / "manifest.json").read_text(encoding="utf-8"))
        return str(manifest.get("files", manifest)["model.safetensors"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _searched(search: Record) -> str:
    """On how many items of which tasks, and which ones, in words."""
    tasks = ", ".join(
        f"{of.get('items')} of {task} ({str(of.get('fingerprint'))[:8]})" for task, of in search["tasks"].items()
    )
    return tasks or "unknown ones"


def _grouped(runs: Sequence[Run], values: Sequence[str]) -> Iterator[str]:
    """`value: run, run` for each value."""
    pairs = sorted(zip(values, (run.name for run in runs), strict=True))
    for value, some in groupby(pairs, key=lambda pair: pair[0]):
        yield f"{value}: {_some([name for _, name in some])}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
