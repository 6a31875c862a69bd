"""Tables of what was found beyond a row a run: when sinks emerged, and what interventions moved."""

from collections.abc import Sequence
from html import escape

import numpy as np

from sinkpretrain.comparison.emergence import Emergence, emergences, prediction
from sinkpretrain.records import UNTOUCHED, by_condition, place
from sinkpretrain.report.tables import NOTHING, label, number, table
from sinkpretrain.runs import Run

# The quantities of an intervention's record, with their headings and how they are written.
QUANTITIES = (
    ("received", "attention score of the position", ".4f"),
    ("first_token_attention", "first-token attention", ".4f"),
    ("dominance", "dominance ratio, position", ".1f"),
    ("dominance_first", "dominance ratio, first token", ".1f"),
    ("neuron_peak", "largest neuron, position", ".2f"),
    ("neuron_peak_first", "largest neuron, first token", ".2f"),
    ("perplexity", "perplexity", ".2f"),
    ("entropy_others", "entropy of the other rows (nats)", ".3f"),
)


def emergence_table(runs: Sequence[Run]) -> str:
    """When each run's sink emerged, and whether super neurons foretold it; empty where no sink rate was recorded."""
    found = emergences(runs)
    if not found:
        return ""
    level, ratio = found[0].level, found[0].ratio
    caption = (
        f"The first probe from which on the sink rate, rows divided by their sum, stays at {level:g} or more; the last "
        f"probe before it that was below; and from where on the largest activation of a neuron at the first token "
        f"stays at {ratio:g} times that at the others or more."
    )
    headings = ["variant and seed", "step", "tokens", "not yet at step", "neurons from step", "lead of neurons (steps)"]
    text = f"Across runs: {prediction(found).sentence()}."
    return table(caption, headings, [_emergence_row(one) for one in found]) + f"<p>{escape(text)}</p>\n"


def _emergence_row(one: Emergence) -> list[str]:
    step = f"not by {one.probed_until:,}" if one.step is None else f"{one.step:,}"
    numbers = (one.tokens, one.below, one.neurons_step, one.lead)
    return [label(one.run), step, *(number(value, ",") for value in numbers)]


def intervention_tables(runs: Sequence[Run]) -> str:
    """For each run that has them, its records of interventions, folded where several runs do."""
    having = [run for run in runs if run.interventions()]
    parts = []
    for run in having:
        names = run.interventions()
        tables = "".join(_intervention_table(run, name) for name in names)
        heading = escape(f"{label(run)}: {', '.join(names)}")
        opened = " open" if len(having) == 1 else ""
        parts.append(f"<details{opened}><summary>{heading}</summary>{tables}</details>\n")
    return "".join(parts)


def _intervention_table(run: Run, name: str) -> str:
    """One record: a row a condition and strength, the mean over seeds and their standard deviation."""
    record = run.intervention(name)
    about = record["about"]
    seeds = len({row["seed"] for row in record["rows"]})
    caption = (
        f"{name}{place(about)}: {about['sequences']} sequences of {about['tokens']} tokens of {about['text']} text; "
        + "mean"
        + (f" \N{PLUS-MINUS SIGN} standard deviation over {seeds} seeds." if seeds > 1 else " of one seed.")
        + " Attention from rows divided by their sum."
    )
    rows = [
        [
            "untouched" if condition == UNTOUCHED else condition,
            NOTHING if strength is None else f"{strength:g}",
            str(position),
            *(_spread([row.get(quantity) for row in of], form) for quantity, _, form in QUANTITIES),
        ]
        for (condition, strength, position), of in by_condition(record).items()
    ]
    return table(caption, ["condition", "strength", "position", *(heading for _, heading, _ in QUANTITIES)], rows)


def _spread(values: Sequence[float | None], form: str) -> str:
    """The mean, and the standard deviation where there are several."""
    found = np.array(values, dtype=np.float64)  # null, in JSON what is not a number, becomes NaN
    spread = f" \N{PLUS-MINUS SIGN} {found.std(ddof=1):{form}}" if len(found) > 1 else ""
    return f"{found.mean():{form}}{spread}"
