"""Tables of the page: HTML, with every text escaped, and the cells that a run's records give."""

import json
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from sinkpretrain.errors import DataError
from sinkpretrain.figures.base.arms import Point, config_of
from sinkpretrain.runs import Run

NOTHING = "\N{EN DASH}"
Columns = dict[str, Callable[[Run], str]]


class Html(str):
    """A text that is HTML already, whose parts were escaped."""

    __slots__ = ()


def html(text: str) -> str:
    """A text as HTML: escaped, unless it is HTML."""
    return text if isinstance(text, Html) else escape(text)


def mark(text: str, kind: str) -> Html:
    """A word that stands out; `kind` is its class."""
    return Html(f'<strong class="word {escape(kind)}">{escape(text)}</strong>')


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], style: str = "numbers") -> str:
    """An HTML table of texts, whose first column names the rows; it scrolls sideways where the page is narrow."""
    head = "".join(f'<th scope="col">{html(heading)}</th>' for heading in headings)
    body = "".join(_row(*row) for row in rows)
    name = escape(re.split(r"[.:;]", caption)[0])
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{name}">'
        f'<table class="{style}"><caption><span>{html(caption)}</span></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _row(name: str, *cells: str) -> str:
    """A row of a table."""
    texts = "".join(f"<td>{html(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{html(name)}</th>{texts}</tr>\n'


def run_table(caption: str, columns: Columns, runs: Sequence[Run], equal: Sequence[str] = ()) -> str:
    """A table of one row a run, with the columns of `run_rows`; empty where no column is left."""
    headings, rows = run_rows(columns, runs, equal)
    return table(caption, ["model" if all(map(imported, runs)) else "run", *headings], rows) if headings else ""


def run_rows(columns: Columns, runs: Sequence[Run], equal: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Headings and a row a run, which begins with its label; columns that no run has are left out, those that should be
    `equal` and are not marked."""
    cells = {name: [cell(run) for run in runs] for name, cell in columns.items()}
    cells = {name: texts for name, texts in cells.items() if set(texts) - {NOTHING}}
    headings = [f"{name} (unequal)" if name in equal and len(set(texts)) > 1 else name for name, texts in cells.items()]
    return headings, [[label(run), *texts] for run, *texts in zip(runs, *cells.values(), strict=True)]


def imported(run: Run) -> bool:
    """Whether the run holds a model from elsewhere, which was not trained here."""
    return run.source_path.is_file()


def label(run: Run) -> str:
    """`<variant>-s<seed>`, with the learning rate between where the folder has it; of an imported model its name."""
    config = config_of(run)
    if imported(run):
        return config.variant
    of_a_sweep = f"{config.variant}-lr{config.optimizer.learning_rate:g}-s{config.seed}"
    return of_a_sweep if run.root.name == of_a_sweep else f"{config.variant}-s{config.seed}"


def number(value: float | None, form: str) -> str:
    """A number as text, or the sign for none."""
    return NOTHING if value is None else f"{value:{form}}"


def cell(form: str, *sources: Callable[[Run], Point | None]) -> Callable[[Run], str]:
    """What shows a number of a run, from the first of these records that has it."""

    def text(run: Run) -> str:
        point = next((point for source in sources if (point := source(run)) is not None), None)
        return number(None if point is None else point.value, form)

    return text


def read_json(run: Run, file: str) -> Any:
    """A JSON record of a run folder; None where there is none.

    Raises:
        DataError: the file is not JSON.
    """
    path = run.root / file
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); the record was altered") from None
