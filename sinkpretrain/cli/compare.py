"""The verb that judges: compare."""

import argparse
from pathlib import Path
from typing import Any

from sinkpretrain.cli.results import beside, runs_of
from sinkpretrain.cli.verb import add_verb, show
from sinkpretrain.errors import ConfigError


def add(verbs: Any) -> None:
    """Add the parser of this verb."""
    compare = add_verb(verbs, "compare", _compare, "paired verdicts: do the gains of ACT persist across variants?")
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of runs")
    compare.add_argument("--act", action="store_true", help="compare the model without and with ACT")
    compare.add_argument(
        "--tasks", nargs="+", default=[], metavar="SET", help="names of evaluation records, if several"
    )
    compare.add_argument("--metric", default="acc", help="what the verdicts are about (default: acc)")
    compare.add_argument("--margin", type=float, help="'no gain' says that the effect is below it (default: 0.01)")
    compare.add_argument("--out", type=Path, metavar="FILE", help="default: act/persistence.json in or above the runs")


def _compare(options: argparse.Namespace) -> None:
    if not options.act:
        raise ConfigError(
            "compare: without --act, comparisons of training runs come with a later version; sinkpretrain report "
            "RUN ... and sinkpretrain plot all RUN ... show runs beside each other now"
        )
    from sinkpretrain.comparison.persistence import persistence
    from sinkpretrain.comparison.persistence_table import table
    from sinkpretrain.evaluation.statistics import MARGIN
    from sinkpretrain.figures import base
    from sinkpretrain.figures.act_gains import ActGains
    from sinkpretrain.files import write_json

    runs = runs_of(options.runs)
    margin = MARGIN if options.margin is None else options.margin
    record = persistence(runs, options.tasks, options.metric, margin)
    path = options.out or beside(options.runs) / "act" / "persistence.json"
    write_json(path, record)
    chosen = ActGains.Options(tasks=record["about"]["task_sets"], metric=options.metric)
    folder = path.parent if options.out else beside(options.runs) / "figures"
    figures = base.save(ActGains(chosen).draw(runs), folder, "act_gains")
    written = "\n".join(map(str, (path, *figures)))
    show(options, {"record": path, "figures": figures, **record}, f"{table(record)}\n\n{written}")
