"""The table of runs: which are done, how far the others are, and what became of those that failed."""

from html import escape
from typing import Any

from sinkpretrain.comparison.outcomes_of_runs import outcome
from sinkpretrain.figures.base.arms import config_of, recorded
from sinkpretrain.report.scope import Scope
from sinkpretrain.report.tables import NOTHING, Columns, cell, label, mark, number, read_json, run_rows, table
from sinkpretrain.runs import Run

WAITING = "waiting"


def states(scope: Scope) -> str:
    """A row for each run of the experiment, those that have not begun below, then the errors of those that failed."""
    if not scope.trained and not scope.waiting:
        return ""
    columns: Columns = {
        "state": lambda run: _state(scope, run),
        "progress": _share,
        "step": lambda run: number(run.status().get("step"), ",.0f"),
        "of": lambda run: number(config_of(run).steps, ",.0f"),
        "validation loss (nats a token)": cell(".4f", recorded("val/loss")),
        "training loss": cell(".4f", recorded("train/loss")),
        "time": lambda run: duration(run.status().get("seconds")),
        "devices": _devices,
    }
    headings, rows = run_rows(columns, scope.trained)
    blank = [NOTHING] * max(len(headings) - 1, 0)
    rows += [[str(entry["folder"]), mark(WAITING, WAITING), *blank] for entry in scope.waiting]
    errors = [(label(run), str(error)) for run in scope.trained if (error := _error(run)) is not None]
    listed = "".join(f"<li><strong>{escape(name)}</strong>: {escape(error)}</li>\n" for name, error in errors)
    return table(f"{_counts(scope)}.", ["run", *(headings or ["state"])], rows) + (
        f'<p>Failed:</p><ul class="errors">{listed}</ul>\n' if errors else ""
    )


def duration(seconds: float | None) -> str:
    """Seconds in words that a person reads: `42 s`, `7 min 02 s`, `3 h 20 min`."""
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {left:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def diverged(scope: Scope, run: Run) -> bool:
    """Whether the run's loss became NaN or infinite."""
    found = scope.outcome(run)
    return bool(found["diverged"]) if found else outcome(run).diverged


def _counts(scope: Scope) -> str:
    """How many runs are in each state, in words."""
    states = [str(run.status().get("state", WAITING)) for run in scope.trained] + [WAITING] * len(scope.waiting)
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(states)} run{'s' * (len(states) != 1)}: {counted}"


def _state(scope: Scope, run: Run) -> str:
    state = str(run.status().get("state", WAITING))
    return mark(f"{state}, diverged", "failed") if diverged(scope, run) else mark(state, state)


def _share(run: Run) -> str:
    step = run.status().get("step")
    return NOTHING if step is None else f"{step / config_of(run).steps:.0%}"


def _error(run: Run) -> str | None:
    """What ended a failed run."""
    status = run.status()
    return str(status.get("error", "no error recorded; see its log")) if status.get("state") == "failed" else None


def _devices(run: Run) -> str:
    """How many devices of which kind worked on the run."""
    environment: Any = read_json(run, "environment.json")
    config = config_of(run)
    count = config.devices * config.nodes
    if not isinstance(environment, dict) or "gpus" not in environment:
        return NOTHING
    if config.accelerator == "cpu" or not environment["gpus"]:
        threads = environment.get("cpu_threads")
        kind = "CPU" if threads is None else f"CPU, {threads} thread{'s' * (threads != 1)}"
    else:
        kind = str(environment["gpus"][0])
    return kind if count == 1 else f"{count} \N{MULTIPLICATION SIGN} {kind}"
