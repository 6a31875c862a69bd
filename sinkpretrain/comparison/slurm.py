"""The Slurm launcher: an experiment's runs as jobs of a cluster, one array, through submitit."""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sinkpretrain.comparison.experiment import Experiment, Member
from sinkpretrain.comparison.members import config_file, final_state, prepare
from sinkpretrain.comparison.slurm_options import Shape, SlurmOptions, parameters
from sinkpretrain.comparison.slurm_queue import (
    FOLDER,
    add_jobs,
    one_line,
    partition_has_gpus,
    queue,
    read_jobs,
)
from sinkpretrain.comparison.slurm_task import RunTask
from sinkpretrain.errors import ConfigError, SinkpretrainError, check
from sinkpretrain.mappings import build
from sinkpretrain.runs import Run


def submit(experiment: Experiment, root: Path, *, jobs: int | None = None) -> dict[str, str]:
    """Submit the runs that are neither at their end nor in the queue, one array for each shape of job, `jobs` of it at
    a time; by folder: the job just submitted, as in `12_3`, `done`, `diverged`, or which job is in the queue.

    Raises:
        ConfigError: no Slurm or no submitit here, or an option that is refused.
        ResumeError: a run there was started with another configuration; nothing is submitted. Names the difference.
        SinkpretrainError: Slurm refuses the jobs, with what it says.
    """
    _require_slurm()
    options = build(SlurmOptions, experiment.slurm, "slurm")
    check(jobs is None or jobs >= 1, "--jobs", jobs, ">= 1")
    root = root.absolute()
    runs = prepare(experiment, root)
    found = _found(runs, root)
    waiting = [member for member in experiment.members if member.folder not in found]
    submitted: dict[str, str] = {}
    for shape, of in _by_shape(waiting, options).items():
        ids = _submit_array(experiment.name, of, root, options, parameters(options, shape, experiment.name, jobs))
        add_jobs(root, ids)
        submitted |= ids
    return {folder: found.get(folder) or submitted[folder] for folder in runs}


def _require_slurm() -> None:
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "--launcher slurm: there is no sbatch here; call it on a machine of a Slurm cluster, or take --launcher "
            "local, or --launcher print for the commands alone (scripts/local_slurm makes a cluster of this machine)"
        )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ConfigError("--launcher slurm: needs submitit; install it with: scripts/install slurm") from None


def _found(runs: Mapping[str, Run], root: Path) -> dict[str, str]:
    """The runs that need no job: those at their end, and those that have one in the queue."""
    ended = {folder: final_state(run.status()) for folder, run in runs.items()}
    found: dict[str, str] = {folder: end for folder, end in ended.items() if end}
    recorded = {folder: job for folder, job in read_jobs(root).items() if folder in runs and folder not in found}
    known = queue() if recorded else {}
    for folder, job in recorded.items():
        if job in known and not known[job].ended:
            found[folder] = f"in the queue: {known[job]}"
    return found


def _by_shape(members: list[Member], options: SlurmOptions) -> dict[Shape, list[Member]]:
    asks = any(member.config.accelerator == "auto" for member in members)
    has_gpus = partition_has_gpus(options.partition) if asks else False
    grouped: dict[Shape, list[Member]] = {}
    for member in members:
        grouped.setdefault(Shape.of(member.config, options, has_gpus), []).append(member)
    return grouped


def _submit_array(
    name: str, members: list[Member], root: Path, options: SlurmOptions, given: Mapping[str, Any]
) -> dict[str, str]:
    """The job of each run, by its folder."""
    import submitit

    python = shlex.join([sys.executable, "-u", "-m", "sinkpretrain.comparison.slurm_process"])
    executor = submitit.SlurmExecutor(root / FOLDER, python=python)
    executor.update_parameters(**given)
    tasks = [
        RunTask(config=config_file(one, root), out=root / one.folder, max_requeues=options.max_requeues)
        for one in members
    ]
    try:
        # submitit prints what sbatch says before it raises it.
        with _outside_of_a_job(), contextlib.redirect_stderr(io.StringIO()):
            jobs = executor.submit_array(tasks)
    except submitit.core.utils.FailedJobError as error:
        raise SinkpretrainError(
            f"{name}: sbatch refused {len(members)} runs: {one_line(error)}; change `slurm:` in the experiment file or "
            "give --slurm.KEY VALUE"
        ) from None
    return {member.folder: job.job_id for member, job in zip(members, jobs, strict=True)}


@contextlib.contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Keep what an interactive job says of itself out of the jobs it submits."""
    import submitit

    configuration = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield


def how_to_watch(jobs: Mapping[str, str], root: Path) -> str:
    """What to type to see how the jobs of these runs are doing."""
    arrays = sorted({found.group() for job in jobs.values() if (found := re.search(r"\d+", job))}, key=int)
    if not arrays:
        return "all runs are at their end"
    listed = ",".join(arrays)
    return "\n".join(
        [
            f"watch:   squeue --job {listed}    or repeat the sweep with --wait",
            f"logs:    {root / FOLDER}/<job>_0_log.out",
            f"stop:    scancel {' '.join(arrays)}    (saved first; repeat the sweep to go on)",
        ]
    )
