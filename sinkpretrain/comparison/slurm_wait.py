"""Waiting for an experiment's Slurm jobs, and what became of them."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sinkpretrain.comparison.experiment import Experiment
from sinkpretrain.comparison.members import diverged_error, final_state
from sinkpretrain.comparison.slurm_queue import QueuedJob, queue, read_jobs
from sinkpretrain.comparison.slurm_task import read_job_record
from sinkpretrain.errors import SinkpretrainError
from sinkpretrain.progress import progress_text
from sinkpretrain.runs import Run

POLL_SECONDS = 5.0
SECONDS_BETWEEN_LINES = 15.0


def wait(experiment: Experiment, root: Path) -> list[Run]:
    """Wait until no run of an experiment has a job in the queue, saying now and then where each stands.

    Raises:
        NonFiniteError: runs diverged, the others are done.
        SinkpretrainError: some runs are not at their end. Names each, with its exit code and log.
    """
    runs = {member.folder: Run(root / member.folder) for member in experiment.members}
    exit_codes: dict[str, int] = {}
    last_line, polls_without = float("-inf"), 0
    # A shared file system may show a run's last state some seconds after its job has gone.
    while polls_without < 2:
        known = queue()
        jobs = {folder: known[job] for folder, job in read_jobs(root).items() if folder in runs and job in known}
        exit_codes |= {folder: job.exit_code for folder, job in jobs.items() if job.ended}
        waiting = {folder: job for folder, job in jobs.items() if not job.ended}
        polls_without = 0 if waiting else polls_without + 1
        if waiting and time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            _say(runs, waiting)
        time.sleep(POLL_SECONDS)
    _refuse_unfinished(runs, root, exit_codes)
    return list(runs.values())


def _say(runs: Mapping[str, Run], waiting: Mapping[str, QueuedJob]) -> None:
    """A line for each job in the queue, and one for all."""
    lines = [_line(runs[folder], job) for folder, job in waiting.items()]
    ended = sum(final_state(run.status()) is not None for run in runs.values())
    lines.append(f"{ended} of {len(runs)} runs are at their end")
    print("\n".join(f"{time.strftime('%H:%M:%S')} {line}" for line in lines), file=sys.stderr, flush=True)


def _line(run: Run, job: QueuedJob) -> str:
    status = run.status()
    at = f" at step {status['step']}/{status.get('steps', '?')}  {progress_text(status)}" if "step" in status else ""
    return f"{run.root.name}: {job}{at}".rstrip()


def _refuse_unfinished(runs: Mapping[str, Run], root: Path, exit_codes: Mapping[str, int]) -> None:
    """Raise unless all runs are done, with what is to do about them."""
    ends = {folder: final_state(run.status()) for folder, run in runs.items()}
    failed = [f"  {_why(runs[folder], exit_codes.get(folder))}" for folder, end in ends.items() if end is None]
    diverged = [
        f"  {folder}: diverged at step {runs[folder].status().get('step', '?')}{_log(runs[folder])}"
        for folder, end in ends.items()
        if end == "diverged"
    ]
    if failed:
        head = f"{root}: {len(failed)} of {len(runs)} runs are not done; mend the cause and repeat the sweep:"
        raise SinkpretrainError("\n".join([head, *failed, *diverged]))
    if diverged:
        raise diverged_error(root, diverged, len(runs))


def _why(run: Run, exit_code: int | None) -> str:
    """How the last job of a run ended: what the run itself recorded, else what Slurm says."""
    record, status = read_job_record(run), run.status()
    if not record:
        return f"{run.root.name}: no job of it has begun"
    code = exit_code if record["exit_code"] is None else record["exit_code"]
    how = "killed" if code is None else f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
    state = f", {status['state']} at step {status.get('step', 0)}" if "state" in status else ""
    error = f": {status['error']}" if status.get("state") == "failed" else ""
    return f"{run.root.name}: {how}{state}{error}{_log(run)}"


def _log(run: Run) -> str:
    record = read_job_record(run)
    return f" ({record['log']})" if record else ""
