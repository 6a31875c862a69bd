"""The run folder: creation, the lock, the record of metrics and probes, and what a crash may leave behind."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from sinkpretrain import files
from sinkpretrain.config import PLACEMENT, Config
from sinkpretrain.errors import ConfigError, DataError, ResumeError
from sinkpretrain.files import write_atomically, write_json
from sinkpretrain.mappings import build
from sinkpretrain.runs import Run

HOLD = """
import sys
from sinkpretrain.runs import Run
with Run(sys.argv[1]).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""
TRY = """
import sys
from sinkpretrain.errors import ResumeError
from sinkpretrain.runs import Run
try:
    with Run(sys.argv[1]).lock():
        print("free")
except ResumeError as error:
    print(error)
"""


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "experiment" / "softmax-s0")
    run.create(Config(variant="softmax"))
    return run


def test_create_and_open(tmp_path):
    run = Run(tmp_path / "experiment" / "sigmoid-s3")
    assert not run.root.exists(), "naming a run touches nothing"
    config = build(Config, {"seed": 3, "model": {"attention": {"weights": {"name": "sigmoid"}}}}, "")
    run.create(config)
    opened = Run.open(run.root)
    assert opened.config() == config
    assert opened.name == "experiment/sigmoid-s3"
    assert opened.checkpoints == run.root / "checkpoints"
    assert sorted(path.name for path in run.root.iterdir()) == ["config.yaml"]
    with pytest.raises(ResumeError, match=r"holds a run already; continue it with --resume"):
        run.create(config)
    with pytest.raises(ConfigError, match="is not a run folder"):
        Run.open(tmp_path)


def test_another_configuration_is_refused_with_each_difference(run):
    run.refuse_other_config(Config(variant="softmax"))
    other = build(Config, {"variant": "softmax", "seed": 5, "optimizer": {"learning_rate": 3e-3}}, "")
    with pytest.raises(ResumeError) as caught:
        run.refuse_other_config(other)
    assert "(seed was 0, is 5; optimizer.learning_rate was 0.001, is 0.003)" in str(caught.value)


def test_a_run_may_go_on_elsewhere(run):
    """Every key of the placement, and none beside them."""
    elsewhere = {"devices": 2, "nodes": 2, "strategy": "sharded", "timeout": 5.0, "micro_batch_size": 1}
    more = {"data": {"workers": 3}, "wandb": {"mode": "disabled", "project": "other"}}
    run.refuse_other_config(build(Config, {"variant": "softmax", **elsewhere, **more}, ""))
    named = {*elsewhere, "data.workers", "wandb"}
    assert named == set(PLACEMENT)
    with pytest.raises(ResumeError, match=r"\(data.seed was 0, is 7\)"):
        run.refuse_other_config(
            build(Config, {"variant": "softmax", **elsewhere, "data": {"workers": 3, "seed": 7}}, "")
        )


def start(program, run):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(run.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_the_lock_goes_with_its_process(run):
    """A second process is refused; when the first is killed outright, the next one gets the run."""
    with start(HOLD, run) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            with start(TRY, run) as second:
                assert "is in use by another process" in second.communicate()[0]
            with pytest.raises(ResumeError, match="is in use by another process"), run.lock():
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
    with start(TRY, run) as third:
        assert third.communicate()[0] == "free\n"
    with run.lock():
        pass
    with run.lock():
        pass


def test_status(run):
    assert run.status() == {}
    run.write_status("running", step=3, wandb="abc")
    run.write_status("preempted", step=7)
    assert run.status() == {"state": "preempted", "step": 7, "wandb": "abc"}


def test_metrics_and_series(run):
    assert run.metrics() == []
    rows = [{"step": step, "train/loss": loss} for step, loss in ((1, 5.5), (2, 5.25), (3, 5.0))]
    rows[1]["val/loss"] = 5.0
    for row in rows:
        run.append_metrics(row)
    assert run.metrics() == rows
    steps, values = run.series("train/loss")
    assert (steps.tolist(), values.tolist()) == ([1, 2, 3], [5.5, 5.25, 5.0])
    assert [x.tolist() for x in run.series("val/loss")] == [[2], [5.0]]
    assert [x.tolist() for x in run.series("sink/rate")] == [[], []]


def test_a_diverged_loss_is_kept(run):
    run.append_metrics({"step": 1, "train/loss": float("nan")})
    assert np.isnan(run.series("train/loss")[1]).all()


def test_a_torn_last_line_is_left_out_and_a_torn_middle_line_refused(run):
    run.append_metrics({"step": 1, "train/loss": 5.0})
    run.append_metrics({"step": 2, "train/loss": 4.0})
    whole = run.metrics_path.read_text()
    run.metrics_path.write_text(whole[:-9])
    assert [row["step"] for row in run.metrics()] == [1]

    run.cut_metrics(2)
    run.append_metrics({"step": 2, "train/loss": 4.5})
    assert [row["train/loss"] for row in run.metrics()] == [5.0, 4.5], "the torn line is gone"

    run.metrics_path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not JSON"):
        run.metrics()


def test_cut_drops_what_came_after(run):
    for step in range(1, 6):
        run.append_metrics({"step": step})
        run.write_probe(step, {"x": np.zeros(1)}, {"text": "some"})
    run.cut_metrics(3)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert run.probe_steps() == [1, 2, 3]
    run.cut_metrics(0)
    assert run.metrics() == []
    assert run.probe_steps() == []


def test_probes(run):
    with pytest.raises(DataError, match="no probe record; there are none"):
        run.probe()
    for step in (512, 4):
        arrays = {"sink_rate/rate": np.array([step / 2]), "effective_rank/rank": np.arange(step)}
        run.write_probe(step, arrays, {"text": "some"})
    assert run.probe_path(512).name == "step_00000512.npz"
    assert run.probe_steps() == [4, 512]
    assert run.probe()["sink_rate/rate"].tolist() == [256.0]
    assert run.probe(4)["effective_rank/rank"].tolist() == [0, 1, 2, 3]
    assert set(run.probe(4)) == {"sink_rate/rate", "effective_rank/rank", "about"}
    with pytest.raises(DataError, match=r"no probe record of step 8; there are \[4, 512\]"):
        run.probe(8)
    assert len(list(run.probe_path(4).parent.iterdir())) == 2, "no temporary file stays"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    path = tmp_path / "folder" / "result.json"
    write_json(path, {"a": [1.5, None]})
    assert path.read_text() == '{\n  "a": [\n    1.5,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": value})
    assert "1.5" in path.read_text(), "the old content stands"


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_atomically(path, b"old")

    def fail(*given):
        raise OSError("no space")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_records_of_act_and_evaluations(run):
    assert (run.heads_path, run.act_maps_path) == (run.root / "act/heads.json", run.root / "act/maps.npz")
    assert run.evaluation_path("paper") == run.root / "eval/paper.json"
    assert run.evaluations() == []
    with pytest.raises(DataError, match=rf"heads.json: no such record; make it with sinkpretrain calibrate {run.root}"):
        run.heads()
    with pytest.raises(DataError, match=rf"make it with sinkpretrain eval {run.root} --tasks arc_easy piqa"):
        run.evaluation("arc_easy+piqa")
    model = {"run": "softmax-s0", "step": 12, "sha256": "0"}
    evaluation = {"about": {"model": model, "tasks": ["paper"], "fewshot": 0}, "conditions": {}}
    for name in ("paper", "embedded"):
        write_json(run.evaluation_path(name), evaluation)
    heads = {"model": model, "settings": {}, "tasks": {}, "items": 0, "layers": [], "vanilla": {}, "heads": []}
    heads |= {"saw_sink": 0, "rules": {"paper": [], "corrected": []}}
    write_json(run.heads_path, heads)
    assert run.evaluations() == ["embedded", "paper"]
    assert run.evaluation("paper") == evaluation
    assert run.heads() == heads
    write_json(run.heads_path, {**heads, "items": -1})
    with pytest.raises(DataError, match="items is -1, not a whole number, 0 or more; the record was altered"):
        run.heads()
    run.heads_path.write_text('{"heads": [')
    with pytest.raises(DataError, match="is not JSON"):
        run.heads()
    write_json(run.evaluation_path("paper"), [1])
    with pytest.raises(
        DataError, match="it is \\[1\\], not a mapping; the record was altered, make it again with sinkpretrain eval"
    ):
        run.evaluation("paper")
