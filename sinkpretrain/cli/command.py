"""The command line: the only place that parses arguments. Heavy packages are imported by the verb that needs them."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sinkpretrain.errors import ConfigError, Interrupted, SinkpretrainError

AXES = ("tokens", "step", "seconds")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit with its code (`errors` lists them)."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one verb; the exit code. Results go to stdout, everything else to stderr."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if rest and not options.takes_overrides:
            raise ConfigError(f"'{rest[0]}' is not understood; see sinkpretrain {options.verb} --help")
        options.overrides = rest
        options.function(options)
    except SinkpretrainError as error:
        if options.debug:
            raise
        print(f"sinkpretrain: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sinkpretrain: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sinkpretrain",
        description="Pretrain small Llamas with switchable attention, measure their attention sinks, compare them.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    prepare = _verb(verbs, "prepare", _prepare, "text -> token store")
    prepare.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    prepare.add_argument("--out", type=Path, help="folder of the store (default: beside the recipe, named after it)")

    train = _verb(verbs, "train", _train, "one run; --a.b VALUE overrides the key a.b", overrides=True)
    train.add_argument("--config", type=Path, metavar="C.yaml")
    train.add_argument("--seed", type=int, help="seed of the initial weights")
    train.add_argument("--out", type=Path, help="run folder (default: runs/<name>/<variant>-s<seed>)")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run from its newest checkpoint")
    train.add_argument("--continue", dest="go_on", action="store_true", help="go on with the run in --out, or start it")
    train.add_argument(
        "--dry-run", action="store_true", help="print parameters, tokens, memory and disk; write nothing"
    )

    sweep = _verb(verbs, "sweep", _sweep, "variants x seeds; safe to repeat", overrides=True)
    sweep.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    sweep.add_argument(
        "--launcher", choices=("local", "print"), default="local", help="run here, or print the commands"
    )
    sweep.add_argument("--out", type=Path, default=Path("runs"), help="folder of experiments (default: runs)")
    sweep.add_argument("--jobs", type=int, help="runs at a time (default: one a GPU, or one on a CPU)")

    plot = _verb(verbs, "plot", _plot, "a figure from the records of runs")
    plot.add_argument("figure", nargs="?", metavar="FIGURE", help="a name from --list, or 'all'")
    plot.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders, or folders of runs")
    plot.add_argument("--list", action="store_true", help="name each figure and the question it answers")
    plot.add_argument("--x", choices=AXES, default="tokens", help="horizontal axis of curves")
    plot.add_argument("--out", type=Path, help="folder of the pictures (default: figures/ in or above the runs)")

    report = _verb(verbs, "report", _report, "one self-contained HTML page")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN|EXPERIMENT", help="run folders, or folders of runs")
    report.add_argument("--out", type=Path, help="the page (default: report.html in or above the runs)")

    _verb(verbs, "doctor", _doctor, "versions, devices, known-bad packages")
    return parser


def _verb(
    verbs: Any, name: str, function: Callable[[argparse.Namespace], None], summary: str, overrides: bool = False
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    verb.set_defaults(function=function, takes_overrides=overrides)
    verb.add_argument("--json", action="store_true", help="print the result as JSON")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return verb


def _print(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """The result on stdout, for machines or for people."""
    print(json.dumps(result, indent=2, default=str) if options.json else text)


def _prepare(options: argparse.Namespace) -> None:
    from sinkpretrain.data.prepare import prepare

    store = prepare(options.recipe, options.out)
    splits = store.manifest["splits"]
    lines = [f"{name:<12}{part['documents']:,} documents, {part['tokens']:,} tokens" for name, part in splits.items()]
    _print(options, {"store": store.root, **store.manifest}, "\n".join([f"store       {store.root}", *lines]))


def _train(options: argparse.Namespace) -> None:
    from sinkpretrain.config import load_config
    from sinkpretrain.mappings import merge, parse_overrides
    from sinkpretrain.runs import Run

    overrides = parse_overrides(options.overrides)
    if options.seed is not None:
        overrides = merge(overrides, {"seed": options.seed})
    if options.resume is not None:
        if options.out is not None or overrides:
            raise ConfigError("--resume goes on with a run as it was started; leave out --out and overrides")
        config, out, resume = Run.open(options.resume).config(), options.resume, True
        if options.config is not None:
            Run(out).refuse_other_config(load_config(options.config))
    elif options.config is None:
        raise ConfigError("--config C.yaml is missing (or --resume RUN)")
    else:
        config, resume = load_config(options.config, overrides), options.go_on
        out = options.out or Path("runs") / config.name / f"{config.variant}-s{config.seed}"
    if options.dry_run:
        _dry_run(options, config)
        return
    from sinkpretrain.training.train import is_rank_zero, train

    finished = train(config, out, resume=resume)
    if not is_rank_zero():
        return
    rows = finished.metrics()
    losses = [row["val/loss"] for row in rows if "val/loss" in row]
    result = {"run": finished.root, "step": rows[-1]["step"], "val/loss": losses[-1]}
    _print(options, result, f"{finished.root}: done at step {rows[-1]['step']}, validation loss {losses[-1]:.4f}")


def _dry_run(options: argparse.Namespace, config: Any) -> None:
    from sinkpretrain.data.store import TokenStore
    from sinkpretrain.training.plan import describe, plan
    from sinkpretrain.training.train import with_vocabulary

    if config.model.vocab_size is None:
        config = with_vocabulary(config, TokenStore.open(config.data.store))
    planned = plan(config)
    _print(options, planned, describe(planned))


def _sweep(options: argparse.Namespace) -> None:
    import shlex

    from sinkpretrain.comparison import local
    from sinkpretrain.comparison.experiment import read_experiment
    from sinkpretrain.mappings import parse_overrides

    name, members = read_experiment(options.experiment, parse_overrides(options.overrides))
    root = options.out / name
    if options.launcher == "print":
        local.write_member_files(members, root)
        commands = [shlex.join(local.command(member, root)) for member in members]
        _print(options, {"commands": commands}, "\n".join(commands))
        return
    runs = local.launch(members, root, options.jobs or local.default_jobs())
    losses = {run.root.name: float(run.series("val/loss")[1][-1]) for run in runs}
    lines = [f"{root / folder}: validation loss {loss:.4f}" for folder, loss in losses.items()]
    _print(options, {"experiment": root, "val/loss": losses}, "\n".join(lines))


def _plot(options: argparse.Namespace) -> None:
    from sinkpretrain import registry
    from sinkpretrain.figures import base

    if options.list:
        questions = {name: registry.load("figures", name).question for name in registry.names("figures")}
        _print(options, questions, "\n".join(f"{name:<24}{question}" for name, question in questions.items()))
        return
    if options.figure is None or not options.runs:
        raise ConfigError("plot needs a figure and at least one run: sinkpretrain plot FIGURE RUN ...; see plot --list")
    folder = options.out or _beside(options.runs) / "figures"
    runs = _runs(options.runs)
    if options.figure == "all":
        paths, skipped = base.draw_all(runs, folder, options.x)
        for name, reason in skipped.items():
            print(f"sinkpretrain: {name} left out: {reason}", file=sys.stderr)
    else:
        figure = registry.load("figures", options.figure)()
        paths = base.save(figure.draw(runs, x=options.x), folder, options.figure, options.x)
    _print(options, {"figures": paths}, "\n".join(map(str, paths)))


def _report(options: argparse.Namespace) -> None:
    from sinkpretrain.report import write_report

    path = write_report(_runs(options.runs), options.out or _beside(options.runs) / "report.html")
    _print(options, {"report": path}, str(path))


def _doctor(options: argparse.Namespace) -> None:
    from sinkpretrain.training import environment

    found = {"versions": environment.versions(), **environment.devices(), "bad_packages": environment.bad_packages()}
    lines = [f"{package:<16}{version or 'not installed'}" for package, version in found["versions"].items()]
    lines += [f"{'platform':<16}{found['platform']}", f"{'CPU threads':<16}{found['cpu_threads']}"]
    lines += [f"{'GPUs':<16}{', '.join(found['gpus']) or 'none'}"]
    _print(options, found, "\n".join(lines))
    if found["bad_packages"]:
        listed = "; ".join(f"{package} {reason}" for package, reason in found["bad_packages"].items())
        raise SinkpretrainError(f"must be uninstalled: {listed}; then install again with constraints.txt")


def _runs(paths: Sequence[Path]) -> list[Any]:
    """The runs that folders name, once each: a run itself, or an experiment's runs in the order they began."""
    from sinkpretrain.runs import Run

    found: dict[Path, Run] = {}
    for path in paths:
        folders = (file.parent for file in path.glob("*/config.yaml"))
        below = sorted(folders, key=lambda folder: (Run(folder).created(), folder.name))
        inside = [path] if (path / "config.yaml").is_file() else below
        if not inside:
            raise ConfigError(f"{path}: holds no run (no config.yaml in it or one folder below); give run folders")
        found |= {folder.resolve(): Run(folder) for folder in inside}
    return list(found.values())


def _beside(paths: Sequence[Path]) -> Path:
    """Where pictures and pages of runs belong: in the only folder named, or in the one above several."""
    return paths[0] if len(paths) == 1 else paths[0].resolve().parent
