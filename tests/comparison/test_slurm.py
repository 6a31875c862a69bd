"""The Slurm launcher on a real Slurm of one node, which scripts/local_slurm starts and stops."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from sinkpretrain.cli import run
from sinkpretrain.comparison import slurm_wait
from sinkpretrain.comparison.experiment import read_experiment
from sinkpretrain.comparison.slurm_queue import queue, read_jobs
from sinkpretrain.comparison.slurm_task import read_job_record
from sinkpretrain.runs import Run

ROOT = Path(__file__).parents[2]
LOCAL_SLURM = ROOT / "scripts/local_slurm"
STEPS = 240

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="Slurm is not installed (Debian: slurm-wlm munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm of one's own needs root"),
]


@pytest.fixture(scope="module")
def slurm():
    """A cluster of one node; its commands find it in the environment."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # munge wants a path that all can enter
        try:
            command = [LOCAL_SLURM, "start", folder, str(os.getpid())]  # so that it ends with us, whatever happens
            started = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert started.returncode == 0, started.stderr
            os.environ["SLURM_CONF"] = started.stdout.strip().removeprefix("export SLURM_CONF=")
            os.environ["OMP_NUM_THREADS"] = "1"
            yield folder
        finally:
            subprocess.run([LOCAL_SLURM, "stop", folder], check=True, timeout=120)
            os.environ.clear()
            os.environ.update(before)
        assert subprocess.run([LOCAL_SLURM, "status", folder], capture_output=True).returncode == 1


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    monkeypatch.setattr(slurm_wait, "POLL_SECONDS", 1.0)


@pytest.fixture
def make(tmp_path, small_mapping):
    """Write an experiment of these variants: `make(variants, seeds=[0])`; its file."""

    def write(variants, **more):
        content = {
            **small_mapping,
            "tokens": STEPS * 8 * 32,
            "micro_batch_size": 4,
            "validation": {"every": 40, "windows": 16},
            "probes": {"every": 1000, "windows": 8, "metrics": ["sink_rate"]},
            "checkpoints": {"every": 100},
            "slurm": {"hours": 0.5, "grace_seconds": 60, "memory_gb": 1, "cpus_per_task": 1},
            "variants": variants,
            **more,
        }
        path = tmp_path / "trial.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def undisturbed(tmp_path):
    """The curves of a run of an experiment, trained here in one go by one process."""
    from sinkpretrain.training.train import train

    def curves_of(path, folder):
        config = next(one.config for one in read_experiment(path, {"devices": 1}).members if one.folder == folder)
        return curves(train(config, tmp_path / "undisturbed" / folder))

    return curves_of


def curves(run_):
    """Every step's training loss and every validation loss, in the order they were written."""
    series = {name: run_.series(name) for name in ("train/loss", "val/loss")}
    return {name: (steps.tolist(), values.tolist()) for name, (steps, values) in series.items()}


def await_step(run_, step):
    """Wait until a run is past a step but far from its end."""
    until = time.monotonic() + 180
    while run_.status().get("step", 0) < step:
        assert time.monotonic() < until, run_.status()
        time.sleep(0.05)
    assert run_.status()["step"] < 0.8 * run_.status()["steps"], run_.status()


def scontrol(*arguments):
    return subprocess.run(["scontrol", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def send(job, number):
    """A signal to the steps of a job, as Slurm sends it near the time limit; scancel itself repeats it for too long."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", f"--signal={number.name.removeprefix('SIG')}", job], timeout=3)


def test_a_requeued_run_ends_as_an_undisturbed_one_and_a_failed_run_is_named(slurm, make, undisturbed, tmp_path, capfd):
    broken = {"model": {"vocab_size": 16}}
    path = make({"softmax": {"data": {"workers": 1}}, "broken": broken})  # a worker gets the signals too
    sweep = ["sweep", str(path), "--launcher", "slurm", "--out", str(tmp_path / "runs")]
    assert run([*sweep, "--json"]) == 0
    jobs = json.loads(capfd.readouterr().out)["jobs"]
    array = jobs["softmax-s0"].removesuffix("_0")
    assert list(jobs.values()) == [f"{array}_{task}" for task in range(2)], "one array"
    root = tmp_path / "runs" / "trial"
    requeued = Run(root / "softmax-s0")

    assert run(sweep) == 0
    said = capfd.readouterr().out
    assert f"in the queue: {array}_0 " in said and f"in the queue: {array}_1 " in said
    assert {job.partition("_")[0] for job in queue()} == {array}, "submitted twice"

    await_step(requeued, 10)
    scontrol("requeue", jobs["softmax-s0"])

    assert run([*sweep, "--wait"]) == 1
    said = capfd.readouterr().err
    log = root / "slurm" / f"{array}_1_0_log.out"
    assert "1 of 2 runs are not done" in said and f"broken-s0: exit code 2 ({log})" in said
    assert "model.vocab_size: 16 is smaller than the vocabulary" in log.read_text()
    job = scontrol("show", "job", f"{array}_1")
    assert "JobState=FAILED" in job and "ExitCode=2:0" in job and "Restarts=0" in job

    assert requeued.status()["state"] == "done"
    record = read_job_record(requeued)
    assert (record["job"], record["starts"], record["requeues"], record["exit_code"]) == (f"{array}_0", 2, 0, 0)
    assert "Restarts=1" in scontrol("show", "job", record["job"])
    log = Path(record["log"]).read_text()
    assert log.count("stopped by SIGTERM and saved at step") == 1
    assert curves(requeued)["train/loss"][0] == list(range(1, STEPS + 1))
    assert curves(requeued) == undisturbed(path, "softmax-s0")

    assert run(sweep) == 0  # only what is not done gets a new job
    again = read_jobs(root)
    assert [folder for folder, job in again.items() if job != jobs[folder]] == ["broken-s0"]


def test_a_run_of_two_processes_goes_on_after_its_time_was_up(slurm, make, undisturbed, tmp_path, capfd):
    path = make({"softmax": {}}, devices=2, tokens=100 * 8 * 32)
    sweep = ["sweep", str(path), "--launcher", "slurm", "--out", str(tmp_path / "runs")]
    assert run(sweep) == 0
    run_ = Run(tmp_path / "runs" / "trial" / "softmax-s0")
    await_step(run_, 5)
    send(read_jobs(run_.root.parent)["softmax-s0"], signal.SIGUSR2)
    assert run([*sweep, "--wait"]) == 0, capfd.readouterr().err
    record = read_job_record(run_)
    assert (record["starts"], record["requeues"]) == (2, 1)
    log = Path(record["log"])
    assert "its time was up; requeued" in log.read_text()
    other = log.with_name(log.name.replace("_0_log", "_1_log")).read_text()
    assert other.count("global_rank=1(2)") == 2
    assert curves(run_) == undisturbed(path, "softmax-s0")
