"""Tables of the page: HTML, with every text escaped, and the cells that a run's records give."""

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from sinkpretrain.errors import DataError
from sinkpretrain.figures.base.arms import Point, config_of
from sinkpretrain.runs import Run

NOTHING = "\N{EN DASH}"
Columns = dict[str, Callable[[Run], str]]


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], style: str = "numbers") -> str:
    """An HTML table of escaped texts, which scrolls sideways where the page is narrow."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<div class="wide"><table class="{style}"><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def run_table(caption: str, columns: Columns, runs: Sequence[Run], equal: Sequence[str] = ()) -> str:
    """A table of one row a run; columns that no run has are left out, those that should be `equal` and are not marked.

    Empty where nothing is left.
    """
    cells = {name: [cell(run) for run in runs] for name, cell in columns.items()}
    cells = {name: texts for name, texts in cells.items() if set(texts) - {NOTHING}}
    if not cells:
        return ""
    headings = [f"{name} (unequal)" if name in equal and len(set(texts)) > 1 else name for name, texts in cells.items()]
    rows = [[label(run), *texts] for run, *texts in zip(runs, *cells.values(), strict=True)]
    return table(caption, ["model" if all(map(imported, runs)) else "variant and seed", *headings], rows)


def imported(run: Run) -> bool:
    """Whether the run holds a model from elsewhere, which was not trained here."""
    return run.source_path.is_file()


def label(run: Run) -> str:
    """`<variant>-s<seed>`; of an imported model its name."""
    config = config_of(run)
    return config.variant if imported(run) else f"{config.variant}-s{config.seed}"


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
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON ({error}); the record was altered") from None
