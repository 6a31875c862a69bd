"""The verbs that make a run: prepare, train."""

import argparse
from pathlib import Path
from typing import Any

from sinkpretrain.cli.verb import add_verb, show
from sinkpretrain.errors import ConfigError


def add(verbs: Any) -> None:
    """Add the parsers of these verbs."""
    prepare = add_verb(verbs, "prepare", _prepare, "text -> token store")
    prepare.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    prepare.add_argument("--out", type=Path, help="folder of the store (default: beside the recipe, named after it)")

    train = add_verb(verbs, "train", _train, "one run; --a.b VALUE overrides the key a.b", overrides=True)
    train.add_argument("--config", type=Path, metavar="C.yaml")
    train.add_argument("--seed", type=int, help="seed of the initial weights")
    train.add_argument("--out", type=Path, help="run folder (default: runs/<name>/<variant>-s<seed>)")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run from its newest checkpoint")
    train.add_argument("--continue", dest="go_on", action="store_true", help="go on with the run in --out, or start it")
    train.add_argument(
        "--dry-run", action="store_true", help="print parameters, tokens, memory and disk; write nothing"
    )


def _prepare(options: argparse.Namespace) -> None:
    from sinkpretrain.data.prepare import prepare

    store = prepare(options.recipe, options.out)
    splits = store.manifest["splits"]
    lines = [f"{name:<12}{part['documents']:,} documents, {part['tokens']:,} tokens" for name, part in splits.items()]
    show(options, {"store": store.root, **store.manifest}, "\n".join([f"store       {store.root}", *lines]))


def _train(options: argparse.Namespace) -> int:
    from sinkpretrain.training import placement, supervisor

    supervisor.follow_supervisor()
    config, out, resume = _which(options)
    if options.dry_run:
        _dry_run(options, config)
        return 0
    place = placement.from_environment()
    if place is None and config.devices > 1:
        placement.refuse_several_nodes(config)
        return supervisor.supervise(options.arguments, config.devices)
    from sinkpretrain.training.train import train

    finished = train(config, out, resume=resume)
    if place is not None and place.rank > 0:
        return 0
    rows = finished.metrics()
    losses = [row["val/loss"] for row in rows if "val/loss" in row]
    result = {"run": finished.root, "step": rows[-1]["step"], "val/loss": losses[-1]}
    show(options, result, f"{finished.root}: done at step {rows[-1]['step']}, validation loss {losses[-1]:.4f}")
    return 0


def _which(options: argparse.Namespace) -> tuple[Any, Path, bool]:
    """The configuration, the folder, and whether a run there goes on."""
    from sinkpretrain.config import load_config
    from sinkpretrain.mappings import merge, parse_overrides
    from sinkpretrain.runs import Run

    overrides = parse_overrides(options.overrides)
    if options.seed is not None:
        overrides = merge(overrides, {"seed": options.seed})
    if options.resume is not None:
        return _resumed(Run.open(options.resume), options, overrides), options.resume, True
    if options.config is None:
        raise ConfigError("--config C.yaml is missing (or --resume RUN)")
    config = load_config(options.config, overrides)
    out = options.out or Path("runs") / config.name / f"{config.variant}-s{config.seed}"
    return config, out, options.go_on


def _resumed(run: Any, options: argparse.Namespace, overrides: dict[str, Any]) -> Any:
    """The configuration of a run that goes on: its own, but for where it is worked on."""
    from sinkpretrain.config import PLACEMENT, Config, load_config
    from sinkpretrain.mappings import build, merge, read_yaml
    from sinkpretrain.records import identity

    config = build(Config, merge(read_yaml(run.config_path), overrides), "")
    if options.out is not None or identity(config) != identity(run.config()):
        raise ConfigError(
            "--resume goes on with a run as it was started; leave out --out and overrides, but for "
            f"{', '.join(f'--{key}' for key in PLACEMENT)}"
        )
    if options.config is not None:
        run.refuse_other_config(load_config(options.config))
    return config


def _dry_run(options: argparse.Namespace, config: Any) -> None:
    from sinkpretrain.training.plan import describe, plan
    from sinkpretrain.training.train import sized

    planned = plan(sized(config))
    show(options, planned, describe(planned))
