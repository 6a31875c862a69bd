"""The verbs that look at records: plot, report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkpretrain.cli.verb import add_verb, show
from sinkpretrain.errors import ConfigError

AXES = ("tokens", "step", "seconds")


def add(verbs: Any) -> None:
    """Add the parsers of these verbs."""
    plot = add_verb(verbs, "plot", _plot, "a figure from the records of runs")
    plot.add_argument("figure", nargs="?", metavar="FIGURE", help="a name from --list, or 'all'")
    plot.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders, or folders of runs")
    plot.add_argument("--list", action="store_true", help="name each figure and the question it answers")
    plot.add_argument("--x", choices=AXES, default="tokens", help="horizontal axis of curves")
    plot.add_argument("--layer", type=int, help="which layer, in figures of one layer (default: the figure says)")
    plot.add_argument("--out", type=Path, help="folder of the pictures (default: figures/ in or above the runs)")

    report = add_verb(verbs, "report", _report, "one self-contained HTML page")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN|EXPERIMENT", help="run folders, or folders of runs")
    report.add_argument("--out", type=Path, help="the page (default: report.html in or above the runs)")


def _plot(options: argparse.Namespace) -> None:
    from sinkpretrain import registry
    from sinkpretrain.figures import base

    if options.list:
        questions = {name: registry.load("figures", name).question for name in registry.names("figures")}
        width = max(map(len, questions)) + 2
        show(options, questions, "\n".join(f"{name:<{width}}{question}" for name, question in questions.items()))
        return
    if options.figure is None or not options.runs:
        raise ConfigError("plot needs a figure and at least one run: sinkpretrain plot FIGURE RUN ...; see plot --list")
    folder = options.out or beside(options.runs) / "figures"
    runs = runs_of(options.runs)
    if options.figure == "all":
        if options.layer is not None:
            raise ConfigError("--layer: has a meaning for one figure; name it instead of 'all'")
        paths, skipped = base.draw_all(runs, folder, options.x)
        for name, reason in skipped.items():
            print(f"sinkpretrain: {name} left out: {reason}", file=sys.stderr)
    else:
        chosen = {} if options.layer is None else {"layer": options.layer}
        kind = registry.load("figures", options.figure)
        figure = kind(registry.build_options("figures", options.figure, chosen, "plot")) if chosen else kind()
        paths = base.save(figure.draw(runs, x=options.x), folder, options.figure, options.x)
    show(options, {"figures": paths}, "\n".join(map(str, paths)))


def _report(options: argparse.Namespace) -> None:
    from sinkpretrain.report import write_report

    root = options.runs[0] if len(options.runs) == 1 and not (options.runs[0] / "config.yaml").is_file() else None
    runs = runs_of(options.runs, begun=root is None or not (root / "experiment.json").is_file())
    path = write_report(runs, options.out or beside(options.runs) / "report.html", root)
    show(options, {"report": path}, str(path))


def runs_of(paths: Sequence[Path], *, begun: bool = True) -> list[Any]:
    """The runs that folders name, once each: a run itself, or an experiment's runs in the order of its file.

    Runs that no `experiment.json` names follow in the order they began.

    Raises:
        ConfigError: a folder without a run in it, where one has to have `begun`.
    """
    from sinkpretrain.comparison.experiment import read_experiment_record
    from sinkpretrain.runs import Run

    found: dict[Path, Run] = {}
    for path in paths:
        record = read_experiment_record(path) or {"runs": []}
        place = {entry["folder"]: number for number, entry in enumerate(record["runs"])}
        folders = [file.parent for file in path.glob("*/config.yaml")]
        folders.sort(key=lambda folder: (place.get(folder.name, len(place)), Run(folder).created(), folder.name))
        inside = [path] if (path / "config.yaml").is_file() else folders
        if not inside and begun:
            raise ConfigError(f"{path}: holds no run (no config.yaml in it or one folder below); give run folders")
        found |= {folder.resolve(): Run(folder) for folder in inside}
    return list(found.values())


def beside(paths: Sequence[Path]) -> Path:
    """Where pictures and pages of runs belong: in the only folder named, or in the one above several."""
    return paths[0] if len(paths) == 1 else paths[0].resolve().parent
