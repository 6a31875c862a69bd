"""Whether the curve of a run can be what its training wrote: against its configuration and its last status."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkpretrain.config import Config
from sinkpretrain.errors import DataError
from sinkpretrain.files import begins, file_sha256
from sinkpretrain.records import read_record
from sinkpretrain.runs import Run

REMEDY = "the record was altered; bring it back, or leave the run out"


def refuse_altered(run: Run, loss: str) -> None:
    """Raise where metrics.jsonl contradicts itself, the configuration or status.json.

    Steps rise, tokens are steps times the tokens of a step, every validation that was due is there, a finished run was
    validated after its last step, and its last `loss` is the one in its status. Up to its newest checkpoint the record
    is the one that this was written after, and the configuration is the one that the run began with: who changes these
    changes several files.

    Raises:
        DataError: names the file, the step, and what was found instead.
    """
    config, status, rows = run.config(), run.status(), run.metrics()
    _refuse_other_steps(run.metrics_path, rows, config)
    measured = [row for row in rows if loss in row]
    if measured:
        due = range(0, int(rows[-1]["step"]) + 1, config.validation.every)
        if missing := sorted(set(due) - {int(row["step"]) for row in measured}):
            raise DataError(f"{run.metrics_path}: has no {loss} of step {missing[0]}, where it was due; {REMEDY}")
    if status.get("state") == "done" and measured:
        _refuse_other_end(run.metrics_path, measured[-1], config.steps, status, loss)
    _refuse_other_files(run)


def _refuse_other_files(run: Run) -> None:
    """Raise where the configuration or the record is not what was noted when they were written; some noted nothing."""
    began_with = run.environment().get("config_sha256")
    if began_with is not None and file_sha256(run.config_path) != began_with:
        raise DataError(f"{run.config_path}: is not what the run began with; {REMEDY}")
    states = sorted(run.checkpoints.glob("step_*/state.json"))
    noted = read_record(states[-1], "sinkpretrain train").get("record") if states else None
    if noted is not None and not begins(run.metrics_path, noted):
        raise DataError(f"{run.metrics_path}: is not what {states[-1].parent.name} was written after; {REMEDY}")


def _refuse_other_steps(path: Path, rows: Sequence[Mapping[str, float]], config: Config) -> None:
    before = -1
    for row in rows:
        if "tokens" not in row:
            raise DataError(f"{path}: a line after step {before} has no tokens; {REMEDY}")
        if row["step"] <= before:
            raise DataError(f"{path}: step {row['step']:g} comes after step {before:g}; {REMEDY}")
        if row["tokens"] != row["step"] * config.tokens_per_step:
            raise DataError(
                f"{path}: step {row['step']:g} is at {row['tokens']:,.0f} tokens, but steps of "
                f"{config.tokens_per_step:,} tokens make {row['step'] * config.tokens_per_step:,.0f}; {REMEDY}"
            )
        before = int(row["step"])


def _refuse_other_end(path: Path, last: Mapping[str, float], steps: int, status: Mapping[str, Any], loss: str) -> None:
    if last["step"] != steps:
        raise DataError(
            f"{path}: the run is done at step {steps}, its last {loss} is of step {last['step']:g}; {REMEDY}"
        )
    if loss in status and _differ(status[loss], last[loss]):
        raise DataError(f"{path}: its last {loss} is {last[loss]!r}, but status.json has {status[loss]!r}; {REMEDY}")


def _differ(one: float, other: float) -> bool:
    """NaN equals NaN."""
    return one != other and not (one != one and other != other)
