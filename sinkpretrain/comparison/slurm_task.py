"""What a Slurm job does: one run, saved and requeued where the time limit comes near.

| signal | from | what happens |
|---|---|---|
| SIGTERM | Slurm: preemption, `scontrol requeue`, `scancel` | saved; requeued where Slurm does that |
| SIGUSR2 | Slurm, `grace_seconds` before the time limit | saved, and requeued by us |

Training saves at SIGTERM and SIGUSR1, at the end of a step. Before it has begun there is nothing to save, and a signal
ends the process at once. Every process of a job gets them, data workers and all.
"""

import logging
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sinkpretrain.comparison.slurm_process import STOPPING, let_through
from sinkpretrain.config import load_config
from sinkpretrain.errors import Interrupted, Preempted, SinkpretrainError
from sinkpretrain.files import write_json
from sinkpretrain.records import read_record
from sinkpretrain.runs import Run

RECORD = "slurm.json"
REQUEUE_ATTEMPTS = 5
SECONDS_BETWEEN_ATTEMPTS = 5.0
STOPPED = (Preempted.exit_code, Interrupted.exit_code)


def read_job_record(run: Run) -> dict[str, Any]:
    """`job`, `log`, `starts`, `requeues` and `exit_code` (null before the end) of a run's last job that began."""
    path = run.root / RECORD
    return read_record(path, "sinkpretrain sweep EXPERIMENT.yaml --launcher slurm") if path.exists() else {}


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """One run, to be called in each task of a Slurm job that submitit starts."""

    config: Path
    out: Path
    max_requeues: int

    def __call__(self) -> None:
        """Bring the run to its end, or as far as the job lets it.

        Raises:
            SystemExit: the run failed or was stopped, with its exit code (see `errors`).
        """
        job = _Job(Run(self.out), self.max_requeues)
        job.begin()
        code = 0
        try:
            self._train()
        except Preempted as error:
            job.say(error)
            job.leave()
        except SinkpretrainError as error:
            job.say(error)
            code = error.exit_code
        except SystemExit as end:  # a rank whose fate the first one tells
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            job.record(exit_code=1)
            raise
        job.record(exit_code=code)
        if code:
            sys.exit(code if job.is_first or code not in STOPPED else 0)

    def _train(self) -> None:
        from sinkpretrain.training.train import train

        logger = logging.getLogger("sinkpretrain")  # submitit has set its own up
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
        train(load_config(self.config), self.out, resume=True)


class _Job:
    """The Slurm job that this process is a task of."""

    def __init__(self, run: Run, max_requeues: int) -> None:
        import submitit

        self.run = run
        self.max_requeues = max_requeues
        self.here = submitit.JobEnvironment()
        self.is_first = self.here.global_rank == 0
        self.time_is_up = False
        self.left = False

    def begin(self) -> None:
        """Take the signals over from submitit, give training its ranks and cores, write `slurm.json`."""
        import submitit

        signal.signal(signal.SIGTERM, self._before_training)
        signal.signal(signal.SIGUSR1, self._before_training)
        signal.signal(signal.SIGUSR2, self._approach)
        before = read_job_record(self.run)
        again = before.get("job") == self.here.job_id
        self.record(
            job=self.here.job_id,
            log=str(self.here.paths.stdout),
            starts=before["starts"] + 1 if again else 1,
            requeues=before["requeues"] if again else 0,
            exit_code=None,
        )
        let_through()
        if cores := os.environ.get("SLURM_CPUS_PER_TASK"):
            os.environ.setdefault("OMP_NUM_THREADS", cores)
        if self.here.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)

    def record(self, **entries: Any) -> None:
        """Add to `slurm.json`; the first rank keeps it."""
        if self.is_first:
            write_json(self.run.root / RECORD, {**read_job_record(self.run), **entries})

    def leave(self) -> NoReturn:
        """End this process after a signal, without running anything else; requeue the job where its time is up."""
        code = Preempted.exit_code if self.is_first else 0  # whether the job is to go on is the first rank's to say
        if self.is_first and not self.left:
            self.left = True
            for number in STOPPING:
                signal.signal(number, signal.SIG_IGN)  # requeueing brings another, to `scontrol` too
            if self.time_is_up:
                self._requeue()
            self.record(exit_code=code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _requeue(self) -> None:
        requeues = read_job_record(self.run).get("requeues", 0)
        if requeues >= self.max_requeues:
            self.say(f"was requeued {requeues} times, as slurm.max_requeues allows; repeat the sweep to go on")
            return
        self.record(requeues=requeues + 1)
        for _ in range(REQUEUE_ATTEMPTS):
            command = ["scontrol", "requeue", self.here.job_id]
            asked = subprocess.run(command, capture_output=True, text=True)
            if asked.returncode == 0:
                self.say("its time was up; requeued")
                return
            self.say(f"`{' '.join(command)}`: {asked.stderr.strip()}")
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
        self.say("could not be requeued; repeat the sweep to go on")

    def say(self, text: object) -> None:
        """A line in the job's log."""
        print(f"sinkpretrain: {text}", file=sys.stderr, flush=True)

    def _approach(self, number: int, frame: types.FrameType | None) -> None:
        """The time limit is near: pass it on as the signal that training knows, once."""
        if not self.time_is_up:
            self.time_is_up = True
            signal.raise_signal(signal.SIGUSR1)

    def _before_training(self, number: int, frame: types.FrameType | None) -> None:
        self.say("stopped outside of training, where there is nothing to save")
        self.leave()
