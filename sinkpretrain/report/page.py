"""The page: its parts put together, what differs between the runs, and how to make them again.

The page loads nothing: figures are SVG images inside it, which follow the reader's light or dark setting.
"""

import json
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from sinkpretrain.errors import DataError
from sinkpretrain.figures.base.arms import config_of
from sinkpretrain.files import write_atomically
from sinkpretrain.mappings import difference, to_mapping
from sinkpretrain.records import ABOUT, HELD_OUT
from sinkpretrain.report.findings import emergence_table, intervention_tables
from sinkpretrain.report.story import figures
from sinkpretrain.report.summary import summary, verdict
from sinkpretrain.report.tables import imported, label, read_json, table
from sinkpretrain.runs import Run

OWN_KEYS = ("variant", "seed")
MODEL_KEYS = ("model.", "data.bos")  # what says something of a model that was not trained here


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write the page about these runs to `out` and return its path; unfinished runs are shown as far as they are.

    Raises:
        DataError: no runs, or a record that cannot be read.
    """
    if not runs:
        raise DataError("no runs were given; a report needs at least one run folder")
    records = _records(runs)  # read before the figures are drawn, which takes longer
    names = dict.fromkeys(config_of(run).variant if imported(run) else config_of(run).name for run in runs)
    page = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(", ".join(names)),
        verdict=verdict(runs),
        summary=summary(runs),
        figures=figures(runs),
        interventions=_part("Interventions", intervention_tables(runs)),
        emergence=_part("Emergence", emergence_table(runs)),
        differences=_part("What differs between the runs", _differences(runs) if len(runs) > 1 else ""),
        records=records,
        commands=escape(_commands(runs, out)),
    )
    write_atomically(Path(out), page.encode())
    return Path(out)


def _part(heading: str, content: str) -> str:
    """A part of the page under its heading; nothing where it has no content."""
    return f"<h2>{escape(heading)}</h2>\n{content}" if content else ""


def _differences(runs: Sequence[Run]) -> str:
    """The configuration keys whose values are not equal in all runs; runs with equal values share a column."""
    configs = [to_mapping(config_of(run)) for run in runs]
    changes = [difference(configs[0], config) for config in configs]
    first = {key: before for changed in changes for key, (before, _) in changed.items() if key not in OWN_KEYS}
    if any(map(imported, runs)):
        first = {key: before for key, before in first.items() if key.startswith(MODEL_KEYS)}
    if not first:
        return "<p>Nothing but the names of variants and the seeds.</p>"
    columns: dict[tuple[str, ...], list[str]] = {}
    for run, changed in zip(runs, changes, strict=True):
        values = tuple(str(changed[key][1] if key in changed else before) for key, before in first.items())
        columns.setdefault(values, []).append(label(run))
    rows = [[key, *(values[place] for values in columns)] for place, key in enumerate(first)]
    headings = ["key", *(", ".join(labels) for labels in columns.values())]
    return table("Configuration keys that are not equal everywhere.", headings, rows, "text")


def _records(runs: Sequence[Run]) -> str:
    """JSON records of the runs, each once where it is the same; what a run should have and has not is said.

    Only an imported model has a source; only a trained one has its environment and data recorded.
    """
    parts = []
    for file, of_imported in (("source.json", True), ("environment.json", False), ("data_manifest.json", False)):
        found = [(run, read_json(run, file)) for run in runs]
        kept = [(run, content) for run, content in found if content is not None or imported(run) == of_imported]
        parts.append(_folded(file, kept, len(runs)))
    texts = [(run, text) for run in runs if (text := _probed_text(run)) is not None]
    return "".join(parts) + _folded("text of the last probe", texts, len(runs))


def _folded(name: str, contents: Sequence[tuple[Run, Any]], count: int) -> str:
    """One record of each run, folded; `count` is how many runs the page is about."""
    groups: dict[str, list[str]] = {}
    for run, content in contents:
        text = "not recorded" if content is None else json.dumps(content, indent=2)
        groups.setdefault(text, []).append(label(run))
    return "".join(
        f"<details><summary>{name}: {escape('all runs' if len(of) == count else ', '.join(of))}</summary>"
        f"<pre>{escape(text)}</pre></details>\n"
        for text, of in groups.items()
    )


def _probed_text(run: Run) -> Any:
    """What a run's last probe was measured on; None where that is not recorded."""
    record = run.probe() if run.probe_steps() else {}
    return json.loads(str(record[ABOUT])) if ABOUT in record else None


def _commands(runs: Sequence[Run], out: Path) -> str:
    """The commands that make these runs and their interventions again and write this page."""
    commands = []
    for run in runs:
        folder = f"again/{run.name}"
        if imported(run):
            commands.append(["import", str(read_json(run, run.source_path.name)["source"]), folder])
        else:
            commands.append(["train", "--config", str(run.config_path), "--out", folder])
        commands += [_intervene(run, name, folder) for name in run.interventions()]
    commands.append(["report", *(str(run.root) for run in runs), "--out", str(out)])
    return "\n".join(shlex.join(["sinkpretrain", *command]) for command in commands)


def _intervene(run: Run, name: str, folder: str) -> list[str]:
    """The command that makes a record of an intervention again, in another folder."""
    record, config = run.intervention(name), config_of(run)
    about = record["about"]
    strengths = sorted({row["strength"] for row in record["rows"] if row["condition"] == name})
    options = {
        "--position": about.get("positions", [about["position"]]),
        "--layer": [] if len(about["layers"] or ()) in (0, config.model.n_layers) else about["layers"],
        "--strength": [] if strengths == [1.0] else strengths,  # an intervention without strengths has 1
        "--at": [] if about.get("at", "all") == "all" else [about["at"]],
        "--tokens": [about["tokens"]],
        "--sequences": [about["sequences"]],
        "--seeds": [len(about["seeds"])],
        "--bos": [] if about["bos"] == config.data.bos else [about["bos"]],
        "--text": [] if about["text"] == HELD_OUT else [about["text"]],
    }
    given = [part for option, values in options.items() if values for part in (option, *map(str, values))]
    return ["intervene", folder, "--with", name, *given]
