"""The record of an experiment as a table: what each condition moved, with its spread over samples of text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sinkpretrain.records import by_condition, place

QUANTITIES = {
    "received": "received",
    "first_token_attention": "first token",
    "sink_rate": "sink rate",
    "sink_rate_first": "sink rate first",
    "dominance": "dominance",
    "neuron_peak": "neuron peak",
    "perplexity": "perplexity",
    "entropy_others": "entropy others",
}
LABEL, CELL = 36, 21  # characters


def table(record: dict[str, Any]) -> str:
    """One line a condition, strength and position: means over samples of text, and their standard deviations."""
    about = record["about"]
    samples = f"{len(about['seeds'])} samples of {about['sequences']} windows of {about['tokens']} tokens"
    lines = [f"{about['intervention']}{place(about)}: means over {samples} (standard deviation between samples)"]
    lines.append(" " * LABEL + "".join(f"{heading:>{CELL}}" for heading in QUANTITIES.values()))
    for (condition, strength, position), rows in by_condition(record).items():
        label = f"{condition}{'' if strength is None else f' {strength:g}'} at {position}"
        lines.append(f"{label:<{LABEL}}" + "".join(f"{_cell(rows, name):>{CELL}}" for name in QUANTITIES))
    lines += [f"! {name} changed nothing: it is the untouched model" for name in about.get("changed_nothing", ())]
    return "\n".join(lines)


def _cell(rows: Sequence[dict[str, Any]], quantity: str) -> str:
    values = np.array([row[quantity] for row in rows], dtype=np.float64)
    spread = f" ({values.std(ddof=1):.2g})" if len(values) > 1 else ""
    return f"{values.mean():.3g}{spread}"
