"""The verb `calibrate` on a trained run, from its held-out text to heads.json."""

import json

import numpy as np
import pytest

from sinkpretrain.calibration import Settings
from sinkpretrain.cli import run as command
from sinkpretrain.errors import DataError
from sinkpretrain.evaluation import calibrating
from sinkpretrain.evaluation.calibrating import CalibrationRequest, chosen_by, search_heads
from sinkpretrain.evaluation.heads import choose, read_heads
from sinkpretrain.evaluation.items import Item
from sinkpretrain.runs import Run

SETTINGS = Settings(alpha=1.5, first_layer=1)
REQUEST = CalibrationRequest(tasks=["embedded"], items=20)


@pytest.fixture(scope="module")
def trained(small_config, tmp_path_factory):
    """A run of four layers, hardly trained."""
    from sinkpretrain.training.train import train

    config = small_config({"tokens": 12 * 8 * 64, "model": {"n_layers": 4, "context_length": 64}})
    return train(config, tmp_path_factory.mktemp("runs") / "deep" / "softmax-s0")


@pytest.fixture(scope="module")
def found(trained):
    return search_heads(trained, 12, SETTINGS, REQUEST)


def test_the_record_says_what_was_searched(trained, found):
    assert read_heads(trained.heads_path) == found
    assert found.layers == [1, 2]
    assert [(row["layer"], row["head"]) for row in found.heads] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert {task: of["items"] for task, of in found.tasks.items()} == {
        "embedded_continuation": 20,
        "embedded_last_word": 20,
    }
    assert len(set(found.hashes)) == found.items == 40
    assert found.saw_sink == sum(row["sink_share"] > 0 for row in found.heads) > 0
    assert found.rules == choose(found.heads)
    assert 0 <= found.vanilla["accuracy"] <= 1


def test_fewer_items_choose_from_their_own_outcomes(trained, found):
    assert chosen_by(trained, "paper", None) == chosen_by(trained, "paper", 20) == found.chosen("paper")
    few = search_heads(Run(trained.root), 12, SETTINGS, CalibrationRequest(tasks=["embedded"], items=5))
    of_few = few.chosen("paper")
    search_heads(Run(trained.root), 12, SETTINGS, REQUEST)
    assert chosen_by(trained, "paper", 5) == of_few


def test_maps_are_those_of_the_heads_and_keep_their_mass(trained, found):
    with np.load(trained.act_maps_path) as maps:
        before, after, sinks, tokens = (maps[name] for name in ("before", "after", "sinks", "tokens"))
        heads = json.loads(str(maps["heads"]))
    assert heads
    assert before.shape == after.shape == (len(tokens), len(tokens))
    np.testing.assert_allclose(before.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3
    assert sinks[0] == 0
    assert 0 < sinks.max() <= 1


def test_the_command_prints_the_outcome_and_goes_on(trained, found, capsys):
    arguments = ["calibrate", str(trained.root), "--tasks", "embedded", "--items", "20"]
    arguments += ["--act.alpha", "1.5", "--act.first_layer", "1"]
    before = {path: path.stat().st_mtime_ns for path in (trained.heads_path.parent / "search").iterdir()}
    assert command([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"][0]["items"] == 40
    after = {path: path.stat().st_mtime_ns for path in (trained.heads_path.parent / "search").iterdir()}
    assert after == before, "the search was found, not made again"
    assert command(arguments) == 0
    text = capsys.readouterr().out
    assert f"{found.saw_sink} heads ever saw a later sink" in text
    assert f"rule paper{len(found.chosen('paper')):>9} heads" in text


def test_a_model_without_sinks_reads_no_op(trained, tmp_path, capsys):
    arguments = [
        "calibrate",
        str(trained.root),
        "--tasks",
        "embedded_last_word",
        "--items",
        "4",
        "--act.first_layer",
        "1",
    ]
    assert command([*arguments, "--act.detection", "absolute", "--act.threshold", "0.99"]) == 0
    assert "no-op: ACT has nothing to calibrate in this model" in capsys.readouterr().out
    record = json.loads(trained.heads_path.read_text())
    assert record["rules"] == {"paper": [], "corrected": []}
    search_heads(trained, 12, SETTINGS, REQUEST)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--act.bta", "0.3"], 2, "act.bta: unknown key. Did you mean 'act.beta'"),
        (["--act.beta", "3"], 2, "beta: 3.0 is out of range"),
        (["--beta", "0.3"], 2, "--beta: unknown; settings of ACT are --act.beta 0.3"),
        (["--act.last_layer", "9"], 2, "last_layer: 9 is out of range; allowed: 0 .. 3"),
        (["--items", "5000"], 3, "calibration items, --items asks for 5000"),
        (["--act.first_layer", "3"], 2, "first_layer: 3 comes after last_layer, 2"),
        (["--items", "0"], 2, "items: 0 is out of range"),
        (["--checkpoint", "all"], 2, "calibrate takes one"),
    ],
)
def test_mistakes_are_named(trained, capsys, more, code, message):
    assert command(["calibrate", str(trained.root), "--tasks", "embedded_last_word", *more]) == code
    assert message in capsys.readouterr().err


def test_items_of_the_test_are_refused(trained, monkeypatch):
    shared = Item(task="t", prompt="p", answers=[" a"], gold=0, hash="same", question_span=None, choices_span=None)
    monkeypatch.setattr(calibrating, "items", lambda *args: [shared])
    with pytest.raises(DataError, match="1 of 1 calibration items are test items too"):
        search_heads(trained, 12, SETTINGS, CalibrationRequest(tasks=["embedded_last_word"], items=1))
