"""The local launcher with real processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sinkpretrain.cli import run
from sinkpretrain.runs import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def experiment(tmp_path, small_mapping):
    """Two variants of the small run."""
    head_rmsnorm = {"model": {"attention": {"output": [{"name": "head_rmsnorm"}]}}}
    content = {**small_mapping, "variants": {"softmax": {}, "head_rmsnorm": head_rmsnorm}}
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


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


def test_a_changed_experiment_is_refused_with_the_difference(experiment, tmp_path, capsys):
    from sinkpretrain.comparison.experiment import read_experiment

    softmax, _ = read_experiment(experiment).members
    Run(tmp_path / "runs" / "trial" / "softmax-s0").create(softmax.config)
    assert run(["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--optimizer.beta2", "0.99"]) == 5
    assert "optimizer.beta2 was 0.95, is 0.99" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "trial" / "head_rmsnorm-s0").exists()


def test_a_failed_run_is_named_with_its_log_and_the_others_finish(experiment, tmp_path, capsys):
    content = yaml.safe_load(experiment.read_text())
    content["variants"]["softmax"] = {"optimizer": {"learning_rate": 1e30, "clip": None}}
    experiment.write_text(yaml.safe_dump(content, sort_keys=False))
    assert run(["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--jobs", "2", "--tokens", "1024"]) == 1
    said = capsys.readouterr().err
    log = tmp_path / "runs" / "trial" / "softmax-s0" / "train.log"
    assert f"1 of 2 runs failed: softmax-s0 (exit code 4, see {log})" in said
    assert "is not finite" in log.read_text()
    assert Run(tmp_path / "runs" / "trial" / "head_rmsnorm-s0").status()["state"] == "done"


@pytest.mark.slow
def test_an_interrupted_sweep_stops_its_runs_and_goes_on(experiment, tmp_path):
    arguments = ["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--tokens", "40_960", "--jobs", "1"]
    command = [sys.executable, "-m", "sinkpretrain", *arguments]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    run_ = Run(tmp_path / "runs" / "trial" / "softmax-s0")
    while run_.status().get("step", 0) < 3:
        assert sweep.poll() is None
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(timeout=60) == 130
    assert run_.status()["state"] == "preempted"
    stopped_at = run_.status()["step"]
    assert 3 <= stopped_at < 160
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    steps = run_.series("train/loss")[0].tolist()
    assert steps == list(range(1, 161))


@pytest.mark.slow
def test_print_gives_commands_that_work(experiment, tmp_path, capsys):
    assert (
        run(["sweep", str(experiment), "--out", str(tmp_path / "runs"), "--launcher", "print", "--tokens", "512"]) == 0
    )
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2
    subprocess.run(commands[0], shell=True, check=True, capture_output=True, timeout=120, cwd=ROOT)
    assert Run(tmp_path / "runs" / "trial" / "softmax-s0").status()["state"] == "done"
