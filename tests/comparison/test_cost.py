"""What an experiment costs, by hand and from the command line."""

import json
from pathlib import Path

import pytest

from sinkpretrain.cli import run
from sinkpretrain.comparison.cost import costs
from sinkpretrain.comparison.experiment import read_experiment
from sinkpretrain.errors import ConfigError

ROOT = Path(__file__).parents[2]
SINK_ORIGIN = ROOT / "configs/experiments/sink_origin.yaml"


def test_the_papers_comparison_by_hand():
    found = costs(read_experiment(SINK_ORIGIN).members, mfu=0.5)
    assert {name: cost.runs for name, cost in found.items()} == {"softmax": 4, "sigmoid": 4, "head_rmsnorm": 4}
    width, layers, feed_forward, context, vocabulary = 768, 12, 3072, 1024, 50257
    # Multiply-adds a token: the linear layers and the head, scores and mixed values of the keys a causal query sees.
    linear = layers * (4 * width**2 + 3 * width * feed_forward) + vocabulary * width
    attention = layers * 2 * width * (context + 1) / 2
    a_token = 3 * 2 * (linear + attention)  # forward, and twice as much backward
    assert found["softmax"].flops_per_token == pytest.approx(a_token, rel=1e-3)
    assert found["softmax"].tokens == 4 * (20_000_000_000 // (480 * context)) * 480 * context
    hours = found["softmax"].tokens * found["softmax"].flops_per_token / (989e12 * 0.5) / 3600
    assert found["softmax"].gpu_hours("H100", 0.5) == pytest.approx(hours)
    assert found["softmax"].gpu_hours("A100", 0.25) == pytest.approx(hours * 989 / 312 * 2)


def test_a_dry_run_prints_the_cost_and_starts_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["sweep", str(SINK_ORIGIN), "--dry-run", "--seeds", "[0]", "--mfu", "0.4"]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["softmax", "1"], ["sigmoid", "1"], ["head_rmsnorm", "1"]]
    assert "40% of its bf16 peak" in lines[-1]
    assert run([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["gpu_hours"]["A100"] == pytest.approx(said["gpu_hours"]["H100"] * 989 / 312)
    assert list(tmp_path.iterdir()) == []


def test_a_share_of_the_peak_is_a_share(capsys):
    with pytest.raises(ConfigError, match=r"--mfu: 40 is out of range"):
        costs(read_experiment(SINK_ORIGIN).members, mfu=40)
    assert run(["sweep", str(SINK_ORIGIN), "--mfu", "0.4"]) == 2
    assert "--mfu: has an effect with --dry-run only" in capsys.readouterr().err
