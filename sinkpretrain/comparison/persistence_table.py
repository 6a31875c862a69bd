"""The record of a comparison of ACT as text for a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from sinkpretrain.comparison.act_records import CONDITIONS, CONTROLS, RULES
from sinkpretrain.records import BOUNDED

WIDTH = 120
NAME, CHANCE, CONDITION, LEVEL, DIFFERENCE, VERDICT = 17, 7, 14, 16, 27, 13  # characters of a column
COUNTS = 24


def table(record: dict[str, Any]) -> str:
    """Means over tasks for every variant and condition, heads, single tasks, other metrics, notes and the answers."""
    about, variants = record["about"], record["variants"]
    sections = [[_heading(about)], _means(variants), _heads(variants)]
    if len(about["tasks"]) > 1:
        sections.append(_rules(variants, "tasks", "task"))
    if any(one["metrics"] for one in variants):
        sections.append(_rules(variants, "metrics", "other metric"))
    if about["warnings"]:
        sections.append([_wrapped(f"! {text}.") for text in about["warnings"]])
    sections += [[_notes(about)], [_wrapped(f"Do the gains persist? {text}") for text in record["answers"].values()]]
    return "\n\n".join("\n".join(section) for section in sections)


def _heading(about: dict[str, Any]) -> str:
    tasks = about["tasks"]
    counts = ", ".join(f"{task} {of['items']}" for task, of in tasks.items())
    unit = "" if about["metric"] in BOUNDED else " (nats)"
    mean = f", mean over {len(tasks)} tasks" if len(tasks) > 1 else ""
    left_out = f"; without {', '.join(about['left_out'])}, which have none" if about["left_out"] else ""
    return _wrapped(f"ACT, {about['metric']}{unit}{mean}, {about['fewshot']}-shot; items: {counts}{left_out}")


def _means(variants: Sequence[dict[str, Any]]) -> list[str]:
    """One line a variant and condition."""
    lines = [
        f"{'variant (seeds)':<{NAME}}{'chance':<{CHANCE}}{'condition':<{CONDITION}}{'value (se)':<{LEVEL}}"
        f"{'minus vanilla [95 %]':<{DIFFERENCE}}{'act-paper minus it':<{DIFFERENCE}}verdict"
    ]
    for one in variants:
        for place, condition in enumerate(CONDITIONS):
            of = one["conditions"][condition]
            name = "" if place else _cut(f"{one['variant']} ({one['seeds']})", NAME)
            chance = "" if place else f"{one['chance']:.3f}"
            verdict = of["verdict"]["word"] if "verdict" in of else ""
            beyond = _difference(of["act_minus_it"]) if condition in CONTROLS else ""
            cells = f"{name:<{NAME}}{chance:<{CHANCE}}{condition:<{CONDITION}}{_value(of):<{LEVEL}}"
            cells += f"{_change(of):<{DIFFERENCE}}{beyond:<{DIFFERENCE}}{verdict}"
            lines.append(cells.rstrip())
    return lines


def _heads(variants: Sequence[dict[str, Any]]) -> list[str]:
    """How many heads ever saw a later sink and how many were chosen, seed by seed."""
    headings = ("may be calibrated", "ever saw a later sink", *RULES)
    lines = [f"{'heads by seed':<{NAME}}" + "".join(f"{heading:<{COUNTS}}" for heading in headings).rstrip()]
    for one in variants:
        heads = one["heads"]
        counts = [heads["eligible"], heads["saw_sink"], *(heads["chosen"][rule] for rule in RULES)]
        cells = "".join(f"{', '.join(map(str, of)):<{COUNTS}}" for of in counts)
        lines.append(f"{_cut(one['variant'], NAME):<{NAME}}{cells}".rstrip())
    return lines


def _rules(variants: Sequence[dict[str, Any]], part: str, heading: str) -> list[str]:
    """One line a variant and task, or metric: vanilla, and what both rules change."""
    head = "".join(f"{f'{rule} minus vanilla':<{DIFFERENCE}}{'':<{VERDICT}}" for rule in RULES)
    lines = [f"{heading:<{NAME}}{'chance':<{CHANCE}}{'vanilla (se)':<{LEVEL}}{head}".rstrip()]
    for one in variants:
        lines.append(one["variant"])
        for name, of in one[part].items():
            chance = f"{of['chance']:.3f}" if part == "tasks" or name in BOUNDED else ""
            cells = f"  {_cut(name, NAME - 2):<{NAME - 2}}{chance:<{CHANCE}}{_value(of['vanilla']):<{LEVEL}}"
            for rule in RULES:
                cells += (
                    f"{_difference(of[rule]['minus_vanilla']):<{DIFFERENCE}}{of[rule]['verdict']['word']:<{VERDICT}}"
                )
            lines.append(cells.rstrip())
    return lines


def _notes(about: dict[str, Any]) -> str:
    return _wrapped(
        "Brackets are 95 % intervals of paired differences over items and seeds, (se) standard errors over both. "
        f"'no gain' needs an interval below the margin, {about['margin']:g}. Adjusted: {about['adjusted']}."
    )


def _value(of: dict[str, Any]) -> str:
    return f"{of['mean']:.3f} ({of['standard_error']:.3f})"


def _change(of: dict[str, Any]) -> str:
    """What a condition changes; nothing is measured where nothing was calibrated."""
    if "minus_vanilla" not in of:
        return ""
    return "none" if of.get("verdict", {}).get("word") == "no-op" else _difference(of["minus_vanilla"])


def _difference(of: dict[str, Any]) -> str:
    low, high = of["interval"]
    return f"{of['mean']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _cut(name: str, width: int) -> str:
    """A name that leaves a space in its column."""
    return name if len(name) < width else f"{name[: width - 4]}..."


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
