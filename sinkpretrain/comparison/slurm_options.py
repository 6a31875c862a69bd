"""The `slurm:` mapping of an experiment file, and what it means to submitit and sbatch."""

import math
from dataclasses import dataclass, field
from typing import Any

from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError, check

# What the launcher itself tells sbatch, by the option that decides it.
DECIDED = {
    "array": "--jobs",
    "cpus-per-task": "slurm.cpus_per_task",
    "error": "the experiment's folder",
    "gpus-per-node": "devices and slurm.gpu_type",
    "job-name": "name",
    "mem": "slurm.memory_gb",
    "nodes": "nodes",
    "ntasks-per-node": "devices",
    "open-mode": "the experiment's folder",
    "output": "the experiment's folder",
    "requeue": "slurm.max_requeues",
    "signal": "slurm.grace_seconds",
    "time": "slurm.hours",
}


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """How a cluster runs an experiment; names and meanings are sbatch's where it has them."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None  # nodes to keep away from
    hours: float = 24.0  # time limit of a job; a run that needs longer is saved and requeued
    grace_seconds: int = 120  # from the signal to save until the time limit; more than a validation takes
    max_requeues: int = 20  # at the time limit; preemptions do not count
    gpu_type: str | None = None  # as in --gpus-per-node=TYPE:N
    cpus_per_task: int | None = None  # a task is a process of training; None: it and its data workers
    memory_gb: float | None = None  # of a node; None: what the cluster gives
    setup: list[str] = field(default_factory=list)  # lines of shell before the run, as in `module load cuda`
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # of sbatch, as in {reservation: NAME}

    def __post_init__(self) -> None:
        """Refuse values out of range and parameters that another key decides."""
        check(self.hours > 0, "slurm.hours", self.hours, "> 0")
        limit = self.minutes * 60
        allowed = f"10 <= value < {limit}, the time limit"
        check(10 <= self.grace_seconds < limit, "slurm.grace_seconds", self.grace_seconds, allowed)
        check(self.max_requeues >= 0, "slurm.max_requeues", self.max_requeues, ">= 0")
        check(self.cpus_per_task is None or self.cpus_per_task >= 1, "slurm.cpus_per_task", self.cpus_per_task, ">= 1")
        check(self.memory_gb is None or self.memory_gb > 0, "slurm.memory_gb", self.memory_gb, "> 0")
        for key in self.additional_parameters:
            if decided := DECIDED.get(str(key).replace("_", "-")):
                raise ConfigError(f"slurm.additional_parameters.{key}: is decided by {decided}; leave it out here")

    @property
    def minutes(self) -> int:
        """The time limit in whole minutes, Slurm's unit."""
        return max(1, math.ceil(self.hours * 60))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a run needs of the cluster; runs of one shape go into one array."""

    nodes: int
    tasks_per_node: int
    gpus: bool
    cpus_per_task: int

    @classmethod
    def of(cls, config: Config, options: SlurmOptions, partition_has_gpus: bool) -> "Shape":
        """The shape of a run; `accelerator: auto` takes GPUs where the partition has them."""
        return cls(
            nodes=config.nodes,
            tasks_per_node=config.devices,
            gpus=config.accelerator == "gpu" or (config.accelerator == "auto" and partition_has_gpus),
            cpus_per_task=options.cpus_per_task or 1 + config.data.workers,
        )


def parameters(options: SlurmOptions, shape: Shape, name: str, jobs: int | None) -> dict[str, Any]:
    """What submitit's SlurmExecutor is told; None means all runs of an array at a time."""
    gpus = f"{options.gpu_type}:{shape.tasks_per_node}" if options.gpu_type else shape.tasks_per_node
    # Since Slurm 22.05 srun no longer takes the cores of a task from sbatch. A rank that fails is named by the others,
    # and the first one requeues the job, before they end: srun must not be quicker.
    srun = [f"--cpus-per-task={shape.cpus_per_task}", "--kill-on-bad-exit=0"]
    given = {
        "job_name": name,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "exclude": options.exclude,
        "time": options.minutes,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "gpus_per_node": gpus if shape.gpus else None,
        "cpus_per_task": shape.cpus_per_task,
        "mem": f"{math.ceil(options.memory_gb * 1024)}M" if options.memory_gb else None,
        "setup": options.setup or None,
        "signal_delay_s": options.grace_seconds,
        "array_parallelism": jobs,
        "stderr_to_stdout": True,
        "srun_args": srun,
        "wckey": None,
        "additional_parameters": {"requeue": True, **options.additional_parameters},
    }
    return {key: value for key, value in given.items() if value is not None or key == "wckey"}
