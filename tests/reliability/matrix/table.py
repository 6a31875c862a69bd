"""The table of the fault matrix, and its place in a Markdown page."""

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from matrix.rows import Outcome
from sinkpretrain.training.environment import commit

BEGIN, END = "<!-- scripts/fault_matrix writes from here -->", "<!-- to here -->"
HEAD = ("fault", "how", "must hold", "trials", "held", "measured", "seconds")


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table of rows, and below it every trial that did not hold."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(_cells(outcome) for outcome in outcomes)]
    rows = ["| " + " | ".join(cells) + " |" for cells in lines]
    failures = [f"- {failure}" for outcome in outcomes for failure in outcome.failures]
    return "\n".join([*rows, *(["", "Did not hold:", "", *failures] if failures else [])])


def circumstances(outcomes: Sequence[Outcome]) -> str:
    """When, on which code and machine, how many and how long, in one sentence."""
    trials, held = sum(len(outcome.trials) for outcome in outcomes), sum(outcome.held for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit() or 'unknown'}, {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}: "
        f"{held} of {trials} trials held, in {seconds:,.0f} s."
    )


def write_into(page: Path, text: str) -> None:
    """Put the text between the page's two marks, in place of what was there.

    Raises:
        ValueError: the page has not each of the marks once.
    """
    before = page.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if before.count(BEGIN) != 1 or before.count(END) != 1 or not between.search(before):
        raise ValueError(f"{page}: must have the line '{BEGIN}' once, and after it '{END}' once")
    page.write_text(between.sub(lambda _: f"{BEGIN}\n{text}\n{END}", before), encoding="utf-8")


def _cells(outcome: Outcome) -> tuple[str, ...]:
    fault = outcome.fault
    return (
        f"{fault.place} {fault.name}",
        fault.how,
        fault.must_hold,
        str(len(outcome.trials)),
        str(outcome.held),
        fault.measured(outcome.trials),
        f"{outcome.seconds:.0f}",
    )
