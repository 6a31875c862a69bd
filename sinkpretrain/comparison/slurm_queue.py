"""What Slurm's queue says of an experiment's runs, and the record of which job each run has."""

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkpretrain.errors import SinkpretrainError
from sinkpretrain.files import write_json
from sinkpretrain.records import read_record

FOLDER = "slurm"  # of an experiment: jobs.json, sbatch's files and the logs
ATTEMPTS = 3
SECONDS_BETWEEN_ATTEMPTS = 5.0


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job that Slurm knows of; it forgets those that ended after some minutes."""

    job: str  # as in 12_3
    state: str  # RUNNING, PENDING, ...
    reason: str  # why it is pending, in Slurm's words
    exit_code: int  # of a job that ended; negative: a signal
    ended: bool

    def __str__(self) -> str:
        """`12_3 PENDING (Resources)`."""
        return f"{self.job} {self.state}" + (f" ({self.reason})" if self.state == "PENDING" else "")


def read_jobs(root: Path) -> dict[str, str]:
    """The last job of each run of an experiment that has had one, by the run's folder.

    Raises:
        DataError: the record cannot be read.
    """
    path = root / FOLDER / "jobs.json"
    return read_record(path, "sinkpretrain sweep EXPERIMENT.yaml --launcher slurm") if path.exists() else {}


def add_jobs(root: Path, jobs: Mapping[str, str]) -> None:
    """Record the jobs of runs that were just submitted."""
    write_json(root / FOLDER / "jobs.json", {**read_jobs(root), **jobs})


def queue() -> dict[str, QueuedJob]:
    """The user's jobs, by their ids, each task of an array on its own.

    Raises:
        SinkpretrainError: squeue fails, with what it says.
    """
    active = {job for job, *_ in _squeue()}
    return {
        job: QueuedJob(
            job=job,
            state=state,
            reason=reason.strip(),
            exit_code=os.waitstatus_to_exitcode(int(status)),
            ended=job not in active,
        )
        for job, state, status, reason in _squeue("--states=all")
    }


def _squeue(*arguments: str) -> list[list[str]]:
    form = "--Format=JobArrayID:60,State:30,exit_code:20,Reason:200"
    said = ask("squeue", "--me", "--array", "--noheader", form, *arguments)
    return [line.split(None, 3) for line in said.splitlines()]


def ask(*command: str) -> str:
    """What one of Slurm's commands prints, asked again where the controller is busy.

    Raises:
        SinkpretrainError: it fails, with what it says.
    """
    for attempt in range(ATTEMPTS):
        asked = subprocess.run(command, capture_output=True, text=True)
        if asked.returncode == 0:
            return asked.stdout
        if attempt < ATTEMPTS - 1:
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    raise SinkpretrainError(f"{command[0]}: {one_line(asked.stderr)}; does the cluster answer `sinfo`?")


def one_line(said: Any) -> str:
    """What a command of Slurm's complained of, without its name and severity."""
    lines = [line.split(": ", 2)[-1] if " error: " in f" {line}" else line for line in str(said).splitlines()]
    return "; ".join(line.strip() for line in lines if line.strip())


def partition_has_gpus(partition: str | None) -> bool:
    """Whether nodes of a partition (None: the default one) have GPUs, as `sinfo` says.

    Raises:
        SinkpretrainError: sinfo fails, with what it says.
    """
    chosen = [f"--partition={partition}"] if partition else []
    lines = [line.split("|") for line in ask("sinfo", "--noheader", "--format=%P|%G", *chosen).splitlines()]
    return any("gpu" in gres for name, gres in lines if partition or name.endswith("*"))
