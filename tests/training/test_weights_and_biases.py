"""Weights & Biases in offline mode, the real library."""

import json
import os
import signal

import pytest

from sinkpretrain.errors import Preempted
from sinkpretrain.runs import Run
from sinkpretrain.training import train as training
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.callbacks.weights_and_biases import WeightsAndBiases
from sinkpretrain.training.train import train

wandb = pytest.importorskip("wandb")

OFFLINE = {"wandb": {"mode": "offline"}, "probes": {"metrics": ["sink_rate"]}}


class StopAtStep5(StepCallback):
    stopped = False

    def on_step(self, trainer, module):
        if module.step == 5 and not self.stopped:
            self.stopped = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_an_offline_mirror_keeps_one_id_over_a_resume(tmp_path, small_config, monkeypatch, caplog):
    caplog.set_level("INFO")
    stop, original = StopAtStep5(), training._callbacks
    monkeypatch.setattr(training, "_callbacks", lambda *arguments: [stop, *original(*arguments)])
    with pytest.raises(Preempted):
        train(small_config(OFFLINE), tmp_path / "run")
    first = json.loads((tmp_path / "run" / "status.json").read_text())["wandb_id"]
    run = train(small_config(OFFLINE), tmp_path / "run", resume=True)
    assert run.status()["wandb_id"] == first
    folders = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{first}"))
    assert folders
    assert f"wandb sync {folders[-1]}" in caplog.text


@pytest.mark.parametrize("fault", ["init", "log"])
def test_a_failing_mirror_costs_nothing(tmp_path, small_config, monkeypatch, caplog, fault):
    class Broken:
        dir, offline = str(tmp_path / "files"), True

        def log(self, *arguments, **options):
            raise OSError("disk full")

        def finish(self, **options):
            raise OSError("disk full")

    def init(**options):
        if fault == "init":
            raise ConnectionError("no route")
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    mirrored = train(small_config(OFFLINE), tmp_path / "mirrored")
    assert mirrored.status()["state"] == "done"
    assert caplog.text.count("training goes on without it") == 1
    plain = train(small_config({**OFFLINE, "wandb": {"mode": "disabled"}}), tmp_path / "plain")
    assert mirrored.series("train/loss")[1].tolist() == plain.series("train/loss")[1].tolist()


def test_every_line_of_the_record_is_mirrored(tmp_path, small_config, monkeypatch):
    lines = []

    class Mirror:
        dir, offline = str(tmp_path / "files"), False

        def log(self, line, step):
            lines.append((step, line))

        def finish(self, **options):
            lines.append("finished")

    given = {}
    monkeypatch.setattr(wandb, "init", lambda **options: given.update(options) or Mirror())
    run = train(small_config({**OFFLINE, "name": "trial", "variant": "softmax", "seed": 3}), tmp_path / "run")
    assert lines == [*((row["step"], row) for row in run.metrics()), "finished"]
    assert (given["group"], given["name"], given["tags"], given["mode"]) == (
        "trial",
        "softmax-s3",
        ["softmax"],
        "offline",
    )
    assert given["config"]["model"]["n_layers"] == 2
    assert given["id"] == run.status()["wandb_id"]


@pytest.mark.parametrize(
    ("mode", "environment", "logged_in", "expected"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("auto", "offline", True, "offline"),
        ("offline", None, True, "offline"),
        ("online", None, False, "online"),
    ],
)
def test_the_mode_follows_the_login_and_the_environment(
    tmp_path, small_config, monkeypatch, mode, environment, logged_in, expected
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    monkeypatch.setattr(wandb, "login", lambda **options: logged_in)
    mirror = WeightsAndBiases(Run(tmp_path), small_config({"wandb": {"mode": mode}}))
    assert mirror._mode() == expected


def test_nobody_is_logged_in_without_credentials(tmp_path, small_config, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert WeightsAndBiases(Run(tmp_path), small_config({"wandb": {"mode": "auto"}}))._mode() == "offline"
