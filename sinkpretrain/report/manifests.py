"""What the runs are made of: the configuration keys that differ, and the records of environment, data and probes."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from sinkpretrain.figures.base.arms import config_of
from sinkpretrain.mappings import difference, to_mapping
from sinkpretrain.records import ABOUT
from sinkpretrain.report.tables import imported, label, read_json, table
from sinkpretrain.runs import Run

OWN_KEYS = ("variant", "seed")
OF_EACH = ("created", "command")  # of an environment, which no two runs share
MODEL_KEYS = ("model.", "data.bos")  # what says something of a model that was not trained here


def differences(runs: Sequence[Run]) -> str:
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


def records(runs: Sequence[Run]) -> str:
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
    """One record of each run, folded; `count` is how many runs the page is about.

    Runs whose records differ in nothing but OF_EACH share one, followed by what is of each.
    """
    groups: dict[str, dict[str, str]] = {}
    for run, content in contents:
        text, own = "not recorded", ""
        if isinstance(content, dict):
            text = json.dumps({key: value for key, value in content.items() if key not in OF_EACH}, indent=2)
            own = json.dumps({key: content[key] for key in OF_EACH if key in content})
        elif content is not None:
            text = json.dumps(content, indent=2)
        groups.setdefault(text, {})[label(run)] = own
    parts = []
    for text, of in groups.items():
        each = "".join(f"\n{name}: {own}" for name, own in of.items() if own not in ("", "{}"))
        shown = escape("all runs" if len(of) == count else ", ".join(of))
        parts.append(f"<details><summary>{name}: {shown}</summary><pre>{escape(text + each)}</pre></details>\n")
    return "".join(parts)


def _probed_text(run: Run) -> Any:
    """What a run's last probe was measured on; None where that is not recorded."""
    record = run.probe() if run.probe_steps() else {}
    return json.loads(str(record[ABOUT])) if ABOUT in record else None
