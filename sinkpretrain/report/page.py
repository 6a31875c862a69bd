"""The page: its parts put together, each under its heading, with a table of contents.

The page loads nothing: figures are SVG images inside it, and the curves' script and data are part of it.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from sinkpretrain.files import write_atomically
from sinkpretrain.report.answer import question, title, verdict
from sinkpretrain.report.charts import scripts, section, shown
from sinkpretrain.report.commands import commands
from sinkpretrain.report.curves import curves
from sinkpretrain.report.findings import emergence_table, intervention_tables
from sinkpretrain.report.manifests import differences, records
from sinkpretrain.report.scope import scope_of
from sinkpretrain.report.states import states
from sinkpretrain.report.story import argument
from sinkpretrain.report.summary import summary
from sinkpretrain.report.verdicts import FIGURE, verdicts
from sinkpretrain.runs import Run

FOLDER = Path(__file__).parent


def write_report(runs: Sequence[Run], out: Path, root: Path | None = None) -> Path:
    """Write the page about these runs to `out` and return its path; unfinished runs are shown as far as they are.

    `root` is an experiment's folder where the page is about all of it, runs that have not begun among them.

    Raises:
        DataError: no runs, or a record that cannot be read.
    """
    scope = scope_of(runs, root)
    runs = scope.runs
    read_first = records(runs)  # a record that cannot be read ends this before the figures, which take longer
    drawn = curves(scope)
    parts = {
        "Runs": states(scope),
        "Convergence": section(drawn, scope) if drawn else "",
        "The argument in figures": argument(scope, {*shown(drawn), FIGURE}) if runs else "",
        "Verdicts": verdicts(scope),
        "Summary": summary(runs),
        "Emergence": emergence_table(runs) if runs else "",
        "Interventions": intervention_tables(runs),
        "What differs between the runs": differences(runs) if len(runs) > 1 else "",
        "Environment and data": read_first,
        "To reproduce": f"<pre>{escape(commands(scope, Path(out)))}</pre>\n",
    }
    parts = {heading: content for heading, content in parts.items() if content}
    page = Template(_file("page.html")).substitute(
        title=title(scope),
        style=_file("page.css"),
        question=question(scope),
        verdict=verdict(scope),
        contents="".join(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>\n' for name in parts),
        parts="".join(
            f'<section>\n<h2 id="{_anchor(name)}">{escape(name)}</h2>\n{content}</section>\n'
            for name, content in parts.items()
        ),
        scripts=scripts(drawn) if drawn else "",
    )
    write_atomically(Path(out), page.encode())
    return Path(out)


def _file(name: str) -> str:
    """A text of the package that is part of every page."""
    return (FOLDER / name).read_text(encoding="utf-8")


def _anchor(heading: str) -> str:
    """What links to a heading."""
    return heading.lower().replace(" ", "-")
