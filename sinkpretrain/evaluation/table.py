"""The record of an evaluation as a table: each task under each condition, beside chance and with its errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sinkpretrain.evaluation.statistics import paired_effect
from sinkpretrain.records import BOUNDED, VANILLA

METRICS = ("acc", "acc_norm", "em", "f1", "logprob", "margin")
COMPARED = ("acc", "em", "logprob")  # with vanilla


def table(record: dict[str, Any]) -> str:
    """A row for each task and condition: means with standard errors, and paired differences to `vanilla`."""
    about, conditions = record["about"], record["conditions"]
    shown = [metric for metric in METRICS if any(metric in found["metrics"] for found in _entries(record))]
    compared = [metric for metric in COMPARED if metric in shown and VANILLA in conditions and len(conditions) > 1]
    rows = [["task", "condition", "n", "chance", *shown, *(f"{metric} - vanilla" for metric in compared)]]
    for task in about["tasks"]:
        for condition, entry in conditions.items():
            found = entry["tasks"][task]
            row = [task, condition, str(found["n"]), f"{found['chance']:.3f}"]
            row += [_mean(found, metric) for metric in shown]
            vanilla = conditions[VANILLA]["tasks"][task] if compared else None
            row += ["" if condition == VANILLA else _difference(found, vanilla, metric) for metric in compared]
            rows.append(row)
    model = about["model"]
    head = (
        f"{model['run']} at step {model['step']}, {about['fewshot']} solved examples; mean ± standard error over "
        "items, log-probabilities in nats; differences with paired 95 % intervals over items"
    )
    return "\n".join([head, *aligned(rows), *_heads(conditions)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of columns; the first two columns are names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _entries(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [found for entry in record["conditions"].values() for found in entry["tasks"].values()]


def _mean(found: dict[str, Any], metric: str) -> str:
    if metric not in found["metrics"]:
        return ""
    value, error = found["metrics"][metric]
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _difference(found: dict[str, Any], vanilla: Any, metric: str) -> str:
    """The mean paired difference of the items, with its interval."""
    if metric not in found["metrics"] or found["n"] < 2:
        return ""
    pair = [np.asarray(of["items"][metric], dtype=np.float64) for of in (found, vanilla)]
    effect = paired_effect((pair[0] - pair[1])[None], bounded=metric in BOUNDED)
    return f"{effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"


def _heads(conditions: dict[str, Any]) -> list[str]:
    """What ACT did under each condition with it."""
    lines = []
    for name, entry in conditions.items():
        act = entry["act"]
        if act is None:
            continue
        if not act["heads"]:
            lines.append(f"{name}: no head was chosen, so its outcomes are those of {VANILLA}")
        elif not act["saw_sink"]:
            lines.append(f"{name}: no-op, none of its {len(act['heads'])} heads met a sink")
        else:
            lines.append(
                f"{name}: {len(act['heads'])} heads, {len(act['saw_sink'])} of them met a sink and moved "
                f"{act['moved_mass']:.3f} of a row on average"
            )
    return lines
