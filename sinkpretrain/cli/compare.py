"""The verb that judges: compare."""

import argparse
from pathlib import Path
from typing import Any

from sinkpretrain.cli.results import beside, runs_of
from sinkpretrain.cli.verb import add_verb, show
from sinkpretrain.errors import ConfigError


def add(verbs: Any) -> None:
    """Add the parser of this verb."""
    compare = add_verb(verbs, "compare", _compare, "paired verdicts: on training runs, or on what ACT changes (--act)")
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN|EXPERIMENT", help="run folders, or folders of runs")
    compare.add_argument("--baseline", metavar="VARIANT", help="compared with first (default: the experiment's)")
    compare.add_argument(
        "--margin",
        type=float,
        help="'no gain' says that the gain is below it (default: 0.01 nats a token; of --metric)",
    )
    compare.add_argument(
        "--out", type=Path, metavar="FILE", help="default: comparison.json or act/persistence.json in or above the runs"
    )
    compare.add_argument("--act", action="store_true", help="compare the models without and with ACT")
    compare.add_argument("--tasks", nargs="+", metavar="SET", help="--act: names of evaluation records, if several")
    compare.add_argument("--metric", help="--act: what the verdicts are about (default: acc)")


def _compare(options: argparse.Namespace) -> None:
    from sinkpretrain.evaluation.statistics import MARGIN

    margin = MARGIN if options.margin is None else options.margin
    if options.act:
        _refuse(options, ("baseline",), "has no effect with --act, whose baseline is the model without ACT")
        _act(options, margin)
    else:
        _refuse(options, ("tasks", "metric"), "has no effect without --act")
        _training(options, margin)


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name}: {why}; leave it out")


def _training(options: argparse.Namespace, margin: float) -> None:
    from sinkpretrain.comparison.verdict_table import table
    from sinkpretrain.comparison.verdicts import compare
    from sinkpretrain.files import write_json

    record = compare(runs_of(options.runs), options.baseline, margin)
    path = options.out or beside(options.runs) / "comparison.json"
    write_json(path, record)
    show(options, {"record": path, **record}, f"{table(record)}\n\n{path}")


def _act(options: argparse.Namespace, margin: float) -> None:
    from sinkpretrain.comparison.persistence import persistence
    from sinkpretrain.comparison.persistence_table import table
    from sinkpretrain.figures import base
    from sinkpretrain.figures.act_gains import ActGains
    from sinkpretrain.files import write_json

    runs = runs_of(options.runs)
    metric = options.metric or "acc"
    record = persistence(runs, options.tasks or (), metric, margin)
    path = options.out or beside(options.runs) / "act" / "persistence.json"
    write_json(path, record)
    chosen = ActGains.Options(tasks=record["about"]["task_sets"], metric=metric)
    folder = path.parent if options.out else beside(options.runs) / "figures"
    figures = base.save(ActGains(chosen).draw(runs), folder, "act_gains")
    written = "\n".join(map(str, (path, *figures)))
    show(options, {"record": path, "figures": figures, **record}, f"{table(record)}\n\n{written}")
