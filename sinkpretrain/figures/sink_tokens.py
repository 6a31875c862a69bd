"""Which tokens are sinks: a table (ACT, 2406.15765, Table 1)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, Point, each_arm, furthest, no_record, probed_at
from sinkpretrain.figures.base.style import GREY, GRID, WIDTH, canvas, plain
from sinkpretrain.runs import Run

TOKENS = 10  # rows of a variant's table
LINE, BLOCK = 0.24, 0.95  # inches: a row, and the headings of a table
COLUMNS = (
    ("token", 0.0),
    ("flagged\n(count)", 0.38),
    ("ratio\n(of all flags)", 0.54),
    ("flagged after\nthe first position", 0.72),
    ("of these by the\ncausal null", 0.88),
    ("of its later\noccurrences", 1.0),
)
VISIBLE = {" ": "\N{OPEN BOX}", "\n": "\\n", "\t": "\\t"}
LAST_OF_FONT = 0x24F  # letters beyond Latin are written as escapes: the style's font has not all of them


class TokenFlags(NamedTuple):
    """How often one token was flagged, over (sequence, layer, head, position) and the seeds of an arm."""

    text: str
    first: float
    later: float
    later_causal_null: float
    seen: float


class SinkTokens(Figure):
    """The tokens flagged most often by ACT's rule, over all layers and heads; one table a variant; raw weights."""

    question = "Which tokens are sinks: the first one whatever it is, or delimiters wherever they stand?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Counts, the share of all flags, and what is left of the later ones under the causal null."""
        _refuse_none(arms)
        tables = [_table(arm) for arm in arms]
        heights = [BLOCK + LINE * max(len(rows[:TOKENS]), 1) for rows in tables]
        title = f"Tokens that are sinks, raw weights, {probed_at(arms)}"
        figure, panels = canvas(title, rows=len(arms), height=0.5 + sum(heights), height_ratios=heights)
        figure.set_size_inches(WIDTH, 0.5 + sum(heights))
        for axes, arm, rows in zip(panels[:, 0], arms, tables, strict=True):
            axes.set_axis_off()
            missing = "no token was flagged" if _records(arm) else "no record"
            axes.set_title(plain(arm.name) + ("" if rows else f" ({missing})"), loc="left", fontweight="bold")
            if rows:
                _draw(axes, plain(arm.name), rows[:TOKENS], _total(arm))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The share of flags at the first position and what the causal null leaves of the later ones."""
        _refuse_none(arms)
        if not any(map(_table, arms)):
            return "There are no sinks: no position of these models scores above ACT's threshold, 0 flags in all."
        first = each_arm(arms, _share("first"), ".1%")
        left = [
            f"{plain(arm.name)} {sum(row.later_causal_null for row in rows) / later:.1%}"
            for arm in arms
            if (rows := _table(arm)) and (later := sum(row.later for row in rows)) > 0
        ]
        kept = f"; kept by the causal null of the later flags listed: {', '.join(left)}" if left else ""
        return (
            "Delimiters that carry many flags after the first position are later sinks, as far as the causal null "
            f"keeps them. Share of all flags that fall on these tokens at the first position: {first}{kept}."
        )


def visible(text: str) -> str:
    """A token's text with its spaces and line ends visible and what the font lacks escaped."""
    shown = (
        VISIBLE.get(char) or (char if char.isprintable() and ord(char) <= LAST_OF_FONT else ascii(char)[1:-1])
        for char in text
    )
    return plain("".join(shown))


def _draw(axes: Axes, name: str, rows: Sequence[TokenFlags], total: float) -> None:
    """The table, in units of its lines from the top."""
    axes.set(xlim=(0, 1), ylim=(len(rows) + 0.2, -2.2))
    axes.axhline(-0.45, color=GREY, linewidth=0.8)
    for place, (heading, right) in enumerate(COLUMNS):
        side = "right" if place else "left"
        axes.text(right, -0.7, heading, ha=side, va="bottom", fontsize=9, color=GREY)
    for line, row in enumerate(rows):
        flagged = row.first + row.later
        cells = [
            row.text,
            f"{flagged:,.0f}",
            f"{flagged / total:.1%}" if total else "",
            f"{row.later:,.0f}",
            f"{row.later_causal_null:,.0f}",
            f"{row.later / (row.seen - row.first):.1%}" if row.seen > row.first else "",
        ]
        for place, (cell, (_, right)) in enumerate(zip(cells, COLUMNS, strict=True)):
            axes.text(right, line, cell, ha="right" if place else "left", va="center", fontsize=9.5, label=name)
        axes.axhline(line + 0.5, color=GRID, linewidth=0.6)


def _refuse_none(arms: Sequence[Arm]) -> None:
    if not any(map(_records, arms)):
        raise no_record(arms, "probe record 'sink_tokens/token'")


def _records(arm: Arm) -> list[dict[str, np.ndarray]]:
    """The probe records of an arm's seeds that have the table."""
    records = [run.probe() for run in furthest(arm)]
    return [record for record in records if "sink_tokens/token" in record]


def _table(arm: Arm) -> list[TokenFlags]:
    """Counts summed over seeds, the most flagged token first; tokens that were never flagged are left out."""
    counts: dict[int, np.ndarray] = {}
    texts: dict[int, str] = {}
    for record in _records(arm):
        names = ("first", "later", "later_causal_null", "seen")
        count_NK = np.stack([record[f"sink_tokens/{name}"] for name in names]).astype(np.float64)
        read = record.get("sink_tokens/text")
        for place, token in enumerate(record["sink_tokens/token"].astype(int)):
            counts[token] = counts.get(token, np.zeros(len(names))) + count_NK[:, place]
            texts[token] = f"token {token}" if read is None else visible(str(read[place]))
    found = [TokenFlags(texts[token], *map(float, count)) for token, count in counts.items()]
    return sorted((row for row in found if row.first + row.later > 0), key=lambda row: -(row.first + row.later))


def _total(arm: Arm) -> float:
    """All flags over all tokens and seeds."""
    return float(sum(record["sink_tokens/flagged_total"] for record in _records(arm)))


def _share(kind: str) -> Callable[[Run], Point | None]:
    """What gives the share of a run's flags that a column of its table holds."""

    def share(run: Run) -> Point | None:
        record = run.probe() if run.probe_steps() else {}
        if f"sink_tokens/{kind}" not in record or not record["sink_tokens/flagged_total"] > 0:
            return None
        value = float(record[f"sink_tokens/{kind}"].sum() / record["sink_tokens/flagged_total"])
        return Point(run.probe_steps()[-1], value)

    return share
