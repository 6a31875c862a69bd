"""What the Slurm launcher asks of Slurm's commands; stand-ins answer, test_slurm.py asks the real ones."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sinkpretrain.cli import run
from sinkpretrain.comparison import slurm_wait
from sinkpretrain.comparison.experiment import read_experiment
from sinkpretrain.comparison.slurm import how_to_watch, submit
from sinkpretrain.comparison.slurm_options import SlurmOptions
from sinkpretrain.comparison.slurm_queue import read_jobs
from sinkpretrain.comparison.slurm_task import RunTask, read_job_record
from sinkpretrain.errors import ConfigError, SinkpretrainError
from sinkpretrain.mappings import build
from sinkpretrain.runs import Run

COMMANDS = {
    "sbatch": """
        [ -f $here/refusal ] && { cat $here/refusal >&2; exit 1; }
        number=$(ls $here/script_* 2>/dev/null | wc -l)
        cp "$1" $here/script_$((number + 41))
        echo "Submitted batch job $((number + 41))" """,
    "squeue": """case "$*" in *--states=all*) cat $here/all ;; *) cat $here/active ;; esac""",
    "sinfo": "cat $here/partitions",
    "srun": "exit 1",
    "scontrol": "echo $* >> $here/asked",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of the stand-ins, first in PATH; files there say what they answer."""
    here = tmp_path / "slurm-bin"
    here.mkdir()
    for name, body in COMMANDS.items():
        (here / name).write_text(f"#!/bin/sh\nhere={here}\n{body}\n")
        (here / name).chmod(0o755)
    (here / "partitions").write_text("batch*|(null)\nbig|gpu:a100:4(S:0-1)\n")
    tell_queue(here)
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    return here


def tell_queue(here, active=(), ended=()):
    """Jobs as (id, state, wait status, reason) for squeue to list."""
    form = "{:60}{:30}{:<20}{:200}\n"
    (here / "active").write_text("".join(form.format(*job) for job in active))
    (here / "all").write_text("".join(form.format(*job) for job in [*active, *ended]))


def scripts(here):
    """The parameters of each script that sbatch was given, and its last line."""
    found = {}
    for path in sorted(here.glob("script_*")):
        text = path.read_text()
        given = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, flags=re.MULTILINE))
        found[int(path.name.removeprefix("script_"))] = given, text.strip().splitlines()
    return found


@pytest.fixture
def make(tmp_path, small_mapping):
    """Write an experiment and read it: `make(variants, slurm={...})`."""

    def write(variants=None, **more):
        content = {**small_mapping, "seeds": [0, 1], "variants": variants or {"softmax": {}}, **more}
        path = tmp_path / "trial.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_experiment(path)

    return write


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (
            {"partitoin": "gpu"},
            "slurm.partitoin: unknown key. Did you mean 'slurm.partition'? Allowed here: part",
        ),
        ({"hours": 0}, "slurm.hours: 0.0 is out of range; allowed: > 0"),
        ({"hours": 0.01, "grace_seconds": 60}, "slurm.grace_seconds: 60 is out of range; allowed: 10 <= value < 60"),
        ({"max_requeues": -1}, "slurm.max_requeues: -1 is out of range"),
        ({"cpus_per_task": 0}, "slurm.cpus_per_task: 0 is out of range"),
        ({"memory_gb": 0}, "slurm.memory_gb: 0.0 is out of range"),
        ({"setup": "module load cuda"}, "slurm.setup: 'module load cuda' is not a list"),
        (
            {"additional_parameters": {"ntasks_per_node": 4}},
            "additional_parameters.ntasks_per_node: is decided by dev",
        ),
        ({"additional_parameters": {"signal": "USR1@10"}}, "is decided by slurm.grace_seconds; leave it out here"),
    ],
)
def test_options_are_refused_with_what_is_allowed(mapping, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        build(SlurmOptions, mapping, "slurm")


def test_one_array_with_what_sbatch_needs(slurm, make, tmp_path):
    options = {
        "partition": "batch",
        "account": "lab",
        "hours": 1.5,
        "grace_seconds": 90,
        "memory_gb": 7.5,
        "cpus_per_task": 3,
        "setup": ["module load cuda"],
        "additional_parameters": {"reservation": "sinks"},
    }
    root = tmp_path / "runs" / "trial"
    assert submit(make(slurm=options), root, jobs=1) == {"softmax-s0": "41_0", "softmax-s1": "41_1"}
    ((given, lines),) = scripts(slurm).values()
    assert given == {
        "account": "lab",
        "array": "0-1%1",
        "cpus-per-task": "3",
        "job-name": "trial",
        "mem": "7680M",
        "nodes": "1",
        "ntasks-per-node": "1",
        "open-mode": "append",
        "output": f"{root}/slurm/%A_%a_0_log.out",
        "partition": "batch",
        "requeue": "",
        "reservation": "sinks",
        "signal": "USR2@90",
        "time": "90",
    }
    assert "module load cuda" in lines
    assert lines[-1].startswith(
        f"srun --unbuffered --output {root}/slurm/%A_%a_%t_log.out --cpus-per-task=3 --kill-on-b"
    )
    assert "-m sinkpretrain.comparison.slurm_process -u -m submitit.core._submit" in lines[-1]
    task = pickle.loads((root / "slurm" / "41_1_submitted.pkl").read_bytes()).function
    assert task == RunTask(config=root / "configs" / "softmax-s1.yaml", out=root / "softmax-s1", max_requeues=20)


def test_runs_of_one_shape_share_an_array(slurm, make, tmp_path):
    wide = {"devices": 2, "nodes": 2, "accelerator": "gpu"}
    experiment = make({"softmax": {"accelerator": "auto"}, "wide": wide}, slurm={"gpu_type": "a100"})
    assert list(submit(experiment, tmp_path / "runs").values()) == ["41_0", "41_1", "42_0", "42_1"]
    (narrow, _), (wide, _) = scripts(slurm).values()
    assert "gpus-per-node" not in narrow
    assert (wide["nodes"], wide["ntasks-per-node"], wide["gpus-per-node"]) == ("2", "2", "a100:2")


def test_auto_takes_gpus_where_the_partition_has_them(slurm, make, tmp_path):
    submit(make(accelerator="auto", slurm={"partition": "big"}), tmp_path / "runs")
    assert scripts(slurm)[41][0]["gpus-per-node"] == "1"


def test_only_runs_without_an_end_and_without_a_job_are_submitted(slurm, make, tmp_path):
    experiment, root = make(seeds=[0, 1, 2, 3]), tmp_path / "runs"
    submit(experiment, root)
    Run(root / "softmax-s0").write_status("done")
    Run(root / "softmax-s1").write_status("failed", error="NonFiniteError: the loss is nan")
    active = [("41_2", "PENDING", 0, "Resources")]
    tell_queue(slurm, active, ended=[("41_0", "COMPLETED", 0, "None"), ("41_3", "FAILED", 256, "NonZeroExitCode")])
    assert submit(experiment, root) == {
        "softmax-s0": "done",
        "softmax-s1": "diverged",
        "softmax-s2": "in the queue: 41_2 PENDING (Resources)",
        "softmax-s3": "42",
    }
    assert read_jobs(root) == {"softmax-s0": "41_0", "softmax-s1": "41_1", "softmax-s2": "41_2", "softmax-s3": "42"}
    assert len(scripts(slurm)) == 2


def test_a_refusal_of_sbatch_is_one_sentence_and_leaves_no_job_behind(slurm, make, tmp_path, capfd):
    make(slurm={"partition": "nope"})
    (slurm / "refusal").write_text(
        "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job failed\n"
    )
    assert run(["sweep", str(tmp_path / "trial.yaml"), "--launcher", "slurm", "--out", str(tmp_path / "runs")]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "sbatch refused 2 runs: invalid partition specified: nope; Batch job failed; change `slurm:`" in said
    assert read_jobs(tmp_path / "runs" / "trial") == {}


def test_without_slurm_the_ways_out_are_named(make, tmp_path, monkeypatch, capsys):
    make()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["sweep", str(tmp_path / "trial.yaml"), "--launcher", "slurm", "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "there is no sbatch here" in said and "--launcher print" in said
    assert not (tmp_path / "runs").exists()


def test_without_submitit_its_installation_is_named(slurm, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit; install it with: scripts/install slurm"):
        submit(make(), tmp_path / "runs")


def test_slurm_that_does_not_answer_is_said(slurm, make, tmp_path, monkeypatch):
    monkeypatch.setattr("sinkpretrain.comparison.slurm_queue.SECONDS_BETWEEN_ATTEMPTS", 0.0)
    (slurm / "sinfo").write_text("#!/bin/sh\necho 'slurm_load_partitions: Unable to contact controller' >&2\nexit 1\n")
    with pytest.raises(SinkpretrainError, match="sinfo: .*Unable to contact controller"):
        submit(make(accelerator="auto"), tmp_path / "runs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slurm.partition", "gpu"], "--slurm: has an effect with --launcher slurm only"),
        (["--wait"], "--wait: has an effect with --launcher slurm only"),
        (["--launcher", "slurm", "--retries", "2"], "--retries: has an effect with --launcher local only"),
        (["--launcher", "print", "--jobs", "2"], "--jobs: has no effect with --launcher print"),
        (["--launcher", "slurm", "--jobs", "0"], "--jobs: 0 is out of range; allowed: >= 1"),
        (["--mfu", "0.3"], "--mfu: has an effect with --dry-run only"),
    ],
)
def test_settings_without_effect_are_refused(slurm, make, tmp_path, capsys, arguments, said):
    make()
    assert run(["sweep", str(tmp_path / "trial.yaml"), "--out", str(tmp_path / "runs"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_how_to_watch_names_the_jobs(tmp_path):
    said = how_to_watch({"a": "41_0", "b": "in the queue: 7_3 PENDING (Resources)", "c": "done"}, tmp_path)
    assert "squeue --job 7,41" in said and "scancel 7 41" in said
    assert how_to_watch({"a": "done", "b": "diverged"}, tmp_path) == "all runs are at their end"


def test_waiting_names_what_is_not_done(slurm, make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm_wait, "POLL_SECONDS", 0.01)
    experiment, root = make(seeds=[0, 1, 2]), tmp_path / "runs"
    submit(experiment, root)
    tell_queue(slurm, ended=[("41_1", "FAILED", 9, "OutOfMemory")])
    Run(root / "softmax-s0").write_status("done")
    Run(root / "softmax-s1").write_status("running", step=7)
    (root / "softmax-s1" / "slurm.json").write_text(json.dumps({"job": "41_1", "log": "LOG", "exit_code": None}))
    with pytest.raises(SinkpretrainError, match="2 of 3 runs are not done") as caught:
        slurm_wait.wait(experiment, root)
    assert caught.value.exit_code == 1
    assert "  softmax-s1: killed by signal 9, running at step 7 (LOG)" in str(caught.value).splitlines()
    assert "  softmax-s2: no job of it has begun" in str(caught.value).splitlines()
    for folder in ("softmax-s1", "softmax-s2"):
        Run(root / folder).write_status("failed", error="NonFiniteError: the loss is nan")
    with pytest.raises(SinkpretrainError, match="2 of 3 runs diverged") as caught:
        slurm_wait.wait(experiment, root)
    assert caught.value.exit_code == 4


@pytest.fixture
def job(slurm, tmp_path, monkeypatch):
    """The environment of a task of job 41_0; an exit of the process is an exception."""
    given = {"SLURM_JOB_ID": "50", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "0", "SLURM_PROCID": "0"}
    for name, value in {**given, "SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "_exit", sys.exit)
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield RunTask(config=tmp_path / "config.yaml", out=tmp_path / "run", max_requeues=2)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "requeues"), [(signal.SIGUSR2, [1, 2, 2]), (signal.SIGTERM, [0, 0, 0])])
def test_we_requeue_at_the_time_limit_alone_and_so_often(slurm, job, monkeypatch, capsys, number, requeues):
    monkeypatch.setattr(RunTask, "_train", lambda self: signal.raise_signal(number))
    for start, requeued in enumerate(requeues, 1):
        with pytest.raises(SystemExit, match="75"):
            job()
        record = read_job_record(Run(job.out))
        assert (record["starts"], record["requeues"], record["exit_code"]) == (start, requeued, 75)
    asked = (slurm / "asked").read_text().splitlines() if (slurm / "asked").exists() else []
    assert asked == ["requeue 41_0"] * max(requeues)
    assert ("as slurm.max_requeues allows" in capsys.readouterr().err) == (number == signal.SIGUSR2)


def test_a_failure_ends_the_job_with_its_exit_code(job, monkeypatch, capsys):
    def fail(self):
        raise ConfigError("tokens: are too few")

    monkeypatch.setattr(RunTask, "_train", fail)
    with pytest.raises(SystemExit, match="2"):
        job()
    assert read_job_record(Run(job.out))["exit_code"] == 2
    assert "tokens: are too few" in capsys.readouterr().err


def test_signals_wait_until_they_can_be_answered(tmp_path):
    """One that comes while Python and submitit start is neither lost nor the end."""
    (tmp_path / "answering.py").write_text(
        "import signal, sys, time\n"
        "from sinkpretrain.comparison.slurm_process import let_through\n"
        "print('started', flush=True)\n"
        "sys.stdin.readline()\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('answered', *sys.argv[1:], flush=True))\n"
        "let_through()\n"
    )
    command = [sys.executable, "-u", "-m", "sinkpretrain.comparison.slurm_process", "-u", "-m", "answering", "FOLDER"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGUSR2)
        said, _ = process.communicate("\n", timeout=20)
    assert (process.returncode, said) == (0, "answered FOLDER\n")
