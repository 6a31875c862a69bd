"""The verb that makes many runs: sweep."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkpretrain.cli.verb import add_verb, show
from sinkpretrain.errors import ConfigError

if TYPE_CHECKING:
    from sinkpretrain.runs import Run


def add(verbs: Any) -> None:
    """Add the parser of this verb."""
    sweep = add_verb(verbs, "sweep", _sweep, "variants x seeds; safe to repeat", overrides=True)
    sweep.add_argument("experiment", type=Path, metavar="EXPERIMENT.yaml")
    sweep.add_argument(
        "--launcher",
        choices=("local", "slurm", "print"),
        default="local",
        help="run here, submit to Slurm (--slurm.partition NAME and the like), or print the commands",
    )
    sweep.add_argument("--out", type=Path, default=Path("runs"), help="folder of experiments (default: runs)")
    sweep.add_argument(
        "--jobs", type=int, help="runs at a time (local: as the devices allow, one on a CPU; slurm: all)"
    )
    sweep.add_argument("--wait", action="store_true", help="slurm: wait until no run has a job in the queue any more")
    sweep.add_argument("--devices-per-run", type=int, metavar="N", help="GPUs (or CPU processes) of each run")
    sweep.add_argument("--retries", type=int, help="local: times that a failed run is tried again (default: 1)")
    sweep.add_argument("--dry-run", action="store_true", help="print runs, operations and GPU hours; start nothing")
    sweep.add_argument("--mfu", type=float, help="share of the GPU's peak that --dry-run reckons with (default: 0.4)")


def _sweep(options: argparse.Namespace) -> None:
    from sinkpretrain.comparison.experiment import read_experiment
    from sinkpretrain.mappings import parse_overrides

    overrides = parse_overrides(options.overrides)
    if options.devices_per_run is not None:
        overrides["devices"] = options.devices_per_run
    _refuse_without_effect(options, overrides)
    experiment = read_experiment(options.experiment, overrides)
    root = options.out / experiment.name
    if options.dry_run:
        _dry_run(options, experiment)
    elif options.launcher == "print":
        _print(options, experiment, root)
    elif options.launcher == "slurm":
        _submit(options, experiment, root)
    else:
        _run_here(options, experiment, root)


def _refuse_without_effect(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    if options.mfu is not None and not options.dry_run:
        raise ConfigError("--mfu: has an effect with --dry-run only")
    if "slurm" in overrides and options.launcher != "slurm":
        raise ConfigError(f"--slurm: has an effect with --launcher slurm only, not with {options.launcher}")
    if options.wait and options.launcher != "slurm":
        raise ConfigError(f"--wait: has an effect with --launcher slurm only; {options.launcher} needs no waiting")
    if options.retries is not None and options.launcher != "local":
        raise ConfigError("--retries: has an effect with --launcher local only; for Slurm there is slurm.max_requeues")
    if options.jobs is not None and options.launcher == "print":
        raise ConfigError("--jobs: has no effect with --launcher print, which starts nothing")


def _dry_run(options: argparse.Namespace, experiment: Any) -> None:
    from sinkpretrain.comparison import cost

    mfu = cost.MFU if options.mfu is None else options.mfu
    found = cost.costs(experiment.members, mfu)
    hours = {gpu: sum(one.gpu_hours(gpu, mfu) for one in found.values()) for gpu in cost.GPUS}
    variants = {name: {**vars(one), "flops": one.flops} for name, one in found.items()}
    show(options, {"variants": variants, "gpu_hours": hours, "mfu": mfu}, cost.table(found, mfu))


def _print(options: argparse.Namespace, experiment: Any, root: Path) -> None:
    import shlex

    from sinkpretrain.comparison import members

    members.prepare(experiment, root)
    commands = [shlex.join(members.command(member, root)) for member in experiment.members]
    show(options, {"commands": commands}, "\n".join(commands))


def _submit(options: argparse.Namespace, experiment: Any, root: Path) -> None:
    from sinkpretrain.comparison import slurm, slurm_wait

    jobs = slurm.submit(experiment, root, jobs=options.jobs)
    lines = [f"{root / folder}: {job}" for folder, job in jobs.items()]
    if not options.wait:
        show(options, {"experiment": root, "jobs": jobs}, "\n".join([*lines, slurm.how_to_watch(jobs, root)]))
        return
    print("\n".join([*lines, slurm.how_to_watch(jobs, root)]), file=sys.stderr)
    _show_losses(options, slurm_wait.wait(experiment, root), root)


def _run_here(options: argparse.Namespace, experiment: Any, root: Path) -> None:
    from sinkpretrain.comparison import local

    retries = 1 if options.retries is None else options.retries
    _show_losses(options, local.launch(experiment, root, jobs=options.jobs, retries=retries), root)


def _show_losses(options: argparse.Namespace, runs: "list[Run]", root: Path) -> None:
    losses = {run.root.name: float(run.series("val/loss")[1][-1]) for run in runs}
    lines = [f"{root / folder}: validation loss {loss:.4f}" for folder, loss in losses.items()]
    show(options, {"experiment": root, "val/loss": losses}, "\n".join(lines))
