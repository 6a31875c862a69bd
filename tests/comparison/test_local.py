"""The local launcher: its processes, with a stand-in for training that does as it is told; then real sweeps."""

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import stand_in
import yaml

from sinkpretrain.cli import run
from sinkpretrain.comparison import attempts, local, run_table
from sinkpretrain.comparison.experiment import Experiment, Member
from sinkpretrain.comparison.guard import Guard
from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError, Interrupted, NonFiniteError, Preempted, ResumeError, SinkpretrainError
from sinkpretrain.mappings import build
from sinkpretrain.runs import Run

ROOT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """`launch({"a-s0": "1 0", ...}, jobs=...)` runs stand-ins with these plans; `gpus` are those of the machine."""
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(local, "IN_USE_SECONDS", 0.3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def launch(plans, *, gpus=(), config=None, **options):
        members = [Member(folder=name, config=build(Config, {"name": "trial", **(config or {})}, "")) for name in plans]
        experiment = Experiment(name="trial", question="", baseline="", members=members, source=tmp_path / "trial.yaml")

        def command(member, root):
            script = [sys.executable, "-SE", str(Path(__file__).with_name("stand_in.py"))]
            return [*script, str(root / member.folder), *plans[member.folder].split()]

        monkeypatch.setattr(attempts, "command", command)
        monkeypatch.setattr(local, "gpus_here", lambda: list(gpus))
        return local.launch(experiment, tmp_path / "trial", **options)

    return launch


def most_at_once(folder):
    """The largest number of stand-ins that worked at the same time."""
    spans = [json.loads(line) for path in folder.glob("*/times.jsonl") for line in path.read_text().splitlines()]
    return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_each_run_sees_its_own_gpu(tmp_path, launch):
    runs = launch({f"a-s{seed}": "0" for seed in range(5)}, gpus=["GPU-aa", "MIG-bb"])
    gpus = [stand_in.seen(run.root)[0]["gpus"] for run in runs]
    assert set(gpus) == {"GPU-aa", "MIG-bb"}
    assert most_at_once(tmp_path / "trial") == 2
    assert {len(stand_in.seen(run.root)[0]["cores"]) for run in runs} == {len(CORES)}


def test_runs_of_two_gpus_share_none(tmp_path, launch):
    runs = launch({f"a-s{seed}": "0" for seed in range(3)}, gpus=["3", "5", "6", "7"], config={"devices": 2})
    assert [stand_in.seen(run.root)[0]["gpus"] for run in runs[:2]] == ["3,5", "6,7"]
    assert most_at_once(tmp_path / "trial") == 2


def test_runs_on_a_processor_have_cores_of_their_own(tmp_path, launch, monkeypatch):
    before = os.sched_getaffinity(0)
    runs = launch({f"a-s{seed}": "0" for seed in range(2)}, jobs=2)
    first, second = (stand_in.seen(run.root)[0] for run in runs)
    if len(CORES) > 1:
        assert not set(first["cores"]) & set(second["cores"])
    assert set(first["cores"]) | set(second["cores"]) == set(CORES)
    assert first["threads"] == str(len(first["cores"]))
    assert os.sched_getaffinity(0) == before
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (again,) = launch({"b-s0": "0"})
    assert stand_in.seen(again.root)[0]["threads"] == "7"
    assert stand_in.seen(again.root)[0]["cores"] == CORES


def test_more_devices_than_are_here_are_refused_before_anything_starts(tmp_path, launch):
    with pytest.raises(ConfigError, match="a-s0 asks for 4 GPUs, 2 are here.*--devices-per-run 2"):
        launch({"a-s0": "0"}, gpus=["0", "1"], config={"devices": 4})
    with pytest.raises(ConfigError, match="--jobs: 0 is out of range"):
        launch({"a-s0": "0"}, jobs=0)
    assert not (tmp_path / "trial").exists()


def test_a_failed_run_is_tried_again_and_named_at_the_end(tmp_path, launch, capsys):
    with pytest.raises(SinkpretrainError) as failed:
        launch({"a-s0": "1 0", "b-s0": "1", "c-s0": "3", "d-s0": "2", "e-s0": "0"}, retries=1)
    root = tmp_path / "trial"
    assert {folder.name: len(stand_in.seen(folder)) for folder in root.glob("*-s0")} == {
        "a-s0": 2,
        "b-s0": 2,
        "c-s0": 1,
        "d-s0": 1,
        "e-s0": 1,
    }
    assert failed.value.exit_code == 1
    assert str(failed.value).splitlines() == [
        f"{root}: 3 of 5 runs failed; mend the cause and repeat the sweep, which goes on where they stood:",
        f"  b-s0: exit code 1 after 2 tries: the end was 1 ({root}/b-s0/train.log)",
        f"  c-s0: exit code 3 after 1 try: the end was 3 ({root}/c-s0/train.log)",
        f"  d-s0: exit code 2 after 1 try: the end was 2 ({root}/d-s0/train.log)",
    ]
    heads = [line for line in (root / "b-s0" / "train.log").read_text().splitlines() if line.startswith("=== ")]
    assert ["try 1 of 2" in heads[0], "try 2 of 2" in heads[1], len(heads)] == [True, True, 2]
    said = capsys.readouterr().err
    assert re.search(r"b-s0: waits: try 2 of 2: exit code 1 after 1 try: the end was 1", said)
    assert re.search(r"b-s0: try 2 of 2 on CPU .*train.log\n.* b-s0: failed: exit code 1 after 2 tries: the end", said)
    assert said.splitlines()[-1].endswith("2 of 5 done, 3 failed")


def test_without_retries_one_try_is_all(tmp_path, launch):
    with pytest.raises(SinkpretrainError, match="1 of 1 runs failed"):
        launch({"a-s0": "1 0"}, retries=0)


def test_a_run_killed_from_outside_is_named_with_the_signal(tmp_path, launch):
    victim = threading.Thread(target=kill_when_seen, args=(tmp_path / "trial" / "a-s0",))
    victim.start()
    with pytest.raises(SinkpretrainError, match="a-s0: killed by SIGKILL after 1 try: nothing was written"):
        launch({"a-s0": "works"}, retries=0)
    victim.join()


def kill_when_seen(folder):
    wait_for(lambda: stand_in.seen(folder))
    os.kill(stand_in.seen(folder)[0]["pid"], signal.SIGKILL)


def test_a_preempted_run_goes_on_and_uses_up_no_try(tmp_path, launch):
    (run,) = launch({"a-s0": "saves saves saves 0"}, retries=0)
    assert len(stand_in.seen(run.root)) == 4


def test_a_preempted_run_that_saves_nothing_is_not_started_for_ever(tmp_path, launch):
    with pytest.raises(SinkpretrainError, match="a-s0: exit code 75 after 2 tries"):
        launch({"a-s0": "75"})


def test_a_diverged_run_is_an_outcome(tmp_path, launch):
    plans = {"a-s0": "0", "wild-s0": "4"}
    for _ in range(2):  # the repeated sweep names it again and does not train it again
        with pytest.raises(NonFiniteError, match=r"1 of 2 runs diverged.*\n  wild-s0: diverged at step 3 \(") as ended:
            launch(plans, retries=3)
        assert ended.value.exit_code == 4
        assert len(stand_in.seen(tmp_path / "trial" / "wild-s0")) == 1


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)])
def test_a_signal_has_running_runs_saved_and_starts_no_other(tmp_path, launch, capsys, number, error):
    before = signal.getsignal(number)
    folder = tmp_path / "trial"
    sender = threading.Thread(target=signal_when_seen, args=([folder / "a-s0", folder / "b-s0"], [number]))
    sender.start()
    with pytest.raises(error, match=f"stopped by {number.name} with 0 of 3 runs done; repeat the same command"):
        launch({"a-s0": "works 0", "b-s0": "works 0", "c-s0": "0"}, jobs=2)
    sender.join()
    assert f"{number.name}: waiting for 2 runs to save; press Ctrl-C again to kill" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert not (folder / "c-s0" / "seen.jsonl").exists()
    assert len(launch({"a-s0": "works 0", "b-s0": "works 0", "c-s0": "0"}, jobs=2)) == 3


def test_a_second_signal_kills_at_once(tmp_path, launch, capsys):
    folder = tmp_path / "trial" / "a-s0"
    sender = threading.Thread(target=signal_when_seen, args=([folder], [signal.SIGINT, signal.SIGINT]))
    sender.start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        launch({"a-s0": "stubborn"})
    sender.join()
    assert time.monotonic() - started < 10
    assert "SIGINT: killing 1 run" in capsys.readouterr().err
    assert not is_alive(stand_in.seen(folder)[0]["pid"])


def signal_when_seen(folders, numbers):
    wait_for(lambda: all(stand_in.seen(folder) for folder in folders))
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.3)


def test_an_error_of_the_sweep_itself_leaves_no_process(tmp_path, launch, monkeypatch):
    shows, started = itertools.count(), time.monotonic()
    monkeypatch.setattr(run_table.RunTable, "show", lambda *_, **__: 1 / 0 if next(shows) == 20 else None)
    with pytest.raises(ZeroDivisionError):
        launch({"a-s0": "works"})
    assert not is_alive(stand_in.seen(tmp_path / "trial" / "a-s0")[0]["pid"])
    assert time.monotonic() - started < 20  # it was asked, not killed after the time to save


def test_a_run_in_another_process_is_not_started(tmp_path, launch, capsys):
    held = Run(tmp_path / "trial" / "a-s0")
    with held.lock(), pytest.raises(ResumeError, match="another sweep is working on a-s0; 1 of 2 runs are done"):
        launch({"a-s0": "0", "b-s0": "0"})
    assert "a-s0: in use: another sweep or process is working on it" in capsys.readouterr().err
    assert not (held.root / "train.log").exists()
    assert len(launch({"a-s0": "0", "b-s0": "0"})) == 2


def test_a_run_that_another_sweep_has_just_started_is_not_started(tmp_path, launch):
    claimed = attempts.claim(Run(tmp_path / "trial" / "a-s0"))
    with pytest.raises(ResumeError, match="another sweep is working on a-s0"):
        launch({"a-s0": "0"})
    assert not stand_in.seen(tmp_path / "trial" / "a-s0")
    claimed.close()
    launch({"a-s0": "1 0"})


def test_a_run_that_another_process_lets_go_is_taken_over(tmp_path, launch, monkeypatch):
    monkeypatch.setattr(local, "IN_USE_SECONDS", 30.0)  # more than it is held for, on a busy machine too
    held, taken = Run(tmp_path / "trial" / "a-s0"), threading.Event()

    def hold():
        with held.lock():
            taken.set()
            time.sleep(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    launch({"a-s0": "0", "b-s0": "0"})
    holder.join()
    assert len(stand_in.seen(held.root)) == 1


def test_runs_do_not_outlive_a_killed_sweep(tmp_path):
    code = (
        "import os, signal, subprocess, sys, time; from sinkpretrain.comparison.guard import Guard\n"
        "with Guard() as guard:\n"
        "    for plan in ('works', '0'):\n"
        "        words = [sys.executable, '-SE', sys.argv[1], f'{sys.argv[2]}/{plan}', plan]\n"
        "        os.mkdir(words[3]); run = subprocess.Popen(words, start_new_session=True); guard.watch(run.pid)\n"
        "    run.wait(); guard.forget(run.pid); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = str(Path(__file__).with_name("stand_in.py"))
    killed = subprocess.run([sys.executable, "-c", code, script, str(tmp_path)], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    wait_for(lambda: not is_alive(stand_in.seen(tmp_path / "works")[0]["pid"]))


def test_a_guard_ends_with_its_sweep():
    with Guard() as guard:
        guard.watch(10**8)
        guard.forget(10**8)
    assert guard._process.returncode == 0


@pytest.fixture
def experiment(tmp_path, small_mapping):
    """Two variants of the small run."""
    head_rmsnorm = {"model": {"attention": {"output": [{"name": "head_rmsnorm"}]}}}
    content = {**small_mapping, "variants": {"softmax": {}, "head_rmsnorm": head_rmsnorm}}
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.slow
def test_a_sweep_finishes_its_runs_and_finds_them_again(experiment, tmp_path, capsys):
    arguments = ["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--jobs", "2", "--json"]
    assert run(arguments) == 0
    losses = json.loads(capsys.readouterr().out)["val/loss"]
    assert set(losses) == {"softmax-s0", "head_rmsnorm-s0"}
    folder = tmp_path / "runs" / "trial"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")}
    assert len(before) == 2
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["val/loss"] == losses
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")} == before
    softmax, head_rmsnorm = Run(folder / "softmax-s0"), Run(folder / "head_rmsnorm-s0")
    # An untrained model's head-wise norm changes what it says, never what it reads or predicts at first.
    assert softmax.series("train/loss")[0].tolist() == head_rmsnorm.series("train/loss")[0].tolist()
    assert abs(softmax.series("val/loss")[1][0] - head_rmsnorm.series("val/loss")[1][0]) < 0.1
    assert softmax.series("val/loss")[1][-1] != head_rmsnorm.series("val/loss")[1][-1]


@pytest.mark.slow
def test_a_diverging_variant_is_named_and_the_others_finish(experiment, tmp_path, capsys):
    content = yaml.safe_load(experiment.read_text())
    content["variants"]["softmax"] = {"optimizer": {"learning_rate": 1e30, "clip": None}}
    experiment.write_text(yaml.safe_dump(content, sort_keys=False))
    assert run(["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--jobs", "2", "--tokens", "1024"]) == 4
    said = capsys.readouterr().err
    log = tmp_path / "runs" / "trial" / "softmax-s0" / "train.log"
    assert "1 of 2 runs diverged" in said and f"  softmax-s0: diverged at step 1 ({log})" in said
    assert "is not finite" in log.read_text()
    assert Run(tmp_path / "runs" / "trial" / "head_rmsnorm-s0").status()["state"] == "done"


def started_sweep(experiment, tmp_path, jobs, terminal=subprocess.DEVNULL):
    """A sweep of 80 steps a run in a process of its own, once its first runs are under way."""
    arguments = ["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--tokens", "20_480", "--jobs", str(jobs)]
    command = [sys.executable, "-m", "sinkpretrain", *arguments, "--probes.metrics", "[sink_rate]"]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, stdin=terminal, cwd=ROOT)
    runs = [Run(tmp_path / "runs" / "trial" / f"{name}-s0") for name in ("softmax", "head_rmsnorm")[:jobs]]
    before = [run.status().get("step", 0) for run in runs]
    wait_for(lambda: all(run.status().get("step", 0) > step for run, step in zip(runs, before, strict=True)), 60)
    return command, sweep, runs


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_and_goes_on(experiment, tmp_path):
    content = yaml.safe_load(experiment.read_text())
    del content["variants"]["head_rmsnorm"]
    experiment.write_text(yaml.safe_dump(content, sort_keys=False))
    command, sweep, (softmax,) = started_sweep(experiment, tmp_path, 1)
    sweep.kill()
    sweep.wait()
    wait_for(lambda: softmax.status()["state"] == "preempted", 30)
    assert softmax.status()["step"] < 80
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    assert softmax.series("train/loss")[0].tolist() == list(range(1, 81))
    heads = [line for line in (softmax.root / "train.log").read_text().splitlines() if line.startswith("=== ")]
    assert len(heads) == 2


@pytest.mark.slow
def test_a_terminal_shows_a_table_of_80_columns(experiment, tmp_path):
    main, terminal = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "24"], stdin=terminal, check=True)
    _, sweep, runs = started_sweep(experiment, tmp_path, 2, terminal)
    time.sleep(1)
    sweep.send_signal(signal.SIGINT)
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(main, 65536)
        except OSError:
            break
    assert sweep.wait(timeout=60) == 130
    assert {run.status()["state"] for run in runs} <= {"preempted", "done"}
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")
    row = r"^(softmax-s0|head_rmsnorm-s0) +running +\d+/80 +[\d.]+ +[\d.]+ +[\d,]+ +0:\d\d:\d\d +CPU \d"
    assert set(re.findall(row, text, re.M)) == {"softmax-s0", "head_rmsnorm-s0"}
    assert re.search(r"SIGINT: waiting for [12] runs? to save", text)
    assert max(len(line) for line in text.splitlines() if "sinkpretrain: " not in line and "SIGINT" not in line) <= 80


@pytest.mark.slow
def test_print_gives_commands_that_work(experiment, tmp_path, capsys):
    assert (
        run(["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--launcher", "print", "--tokens", "512"]) == 0
    )
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2
    subprocess.run(["bash", "-c", commands[0]], check=True, capture_output=True, timeout=120, cwd=ROOT)
    assert Run(tmp_path / "runs" / "trial" / "softmax-s0").status()["state"] == "done"
