import numpy as np
import pytest
from artists import artists, beside, texts
from synthetic_runs import ATTENTION, write_run, write_runs

from sinkpretrain.comparison.verdicts import compare
from sinkpretrain.errors import DataError
from sinkpretrain.figures.verdicts import Verdicts
from sinkpretrain.files import write_json


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three variants of three seeds."""
    root = tmp_path_factory.mktemp("three")
    return [write_run(root / f"{v}-s{seed}", v, seed, probes=False) for v in ATTENTION for seed in range(3)]


def in_row(line, label):
    """What carries a label in the row of a variant's mark."""
    row = line.get_ydata()[0]
    return [one for one in beside(line, label) if np.allclose(one.get_ydata(), row)]


def test_intervals_words_and_baselines_are_those_of_the_record(three):
    canvas, record = Verdicts().draw(three), compare(three)
    for pair in record["pairs"][:2]:
        marks = artists(canvas, pair["variant"])
        for line, effect in zip(marks, pair["effects"], strict=False):
            (base,) = in_row(line, "_baseline")
            assert base.get_xdata()[0] == pytest.approx(np.mean(effect["baseline_values"]))
            bars = [bar for bar in beside(line, "_interval") if bar.get_segments()[0][0, 1] == line.get_ydata()[0]]
            ends = [(bar.get_segments()[0][:, 0] - base.get_xdata()[0]).tolist() for bar in bars]
            assert ends == ([pytest.approx(effect["interval"])] if effect["interval"] else [])
            words = {text.get_position()[1]: text.get_text() for text in line.axes.texts}
            assert words[line.get_ydata()[0]] == effect["word"]


def test_speed_is_a_ratio_or_a_bound(three):
    canvas, record = Verdicts().draw(three), compare(three)
    slower, faster = record["pairs"][:2]
    mark = artists(canvas, faster["variant"])[-1]
    assert mark.get_xdata().tolist() == [faster["speed_up"]["ratio"]]
    assert mark.axes.get_xlabel().startswith("speed-up")
    (below,) = beside(mark, "_below")
    assert below.get_xdata().tolist() == slower["speed_up"]["bounds"]
    assert slower["speed_up"]["censored"] == 3


def test_runs_that_cannot_be_compared_are_left_out_of_all_figures(tmp_path):
    runs = write_runs(tmp_path, seeds=1)
    write_json(runs[1].data_manifest_path, {"fingerprint": "other"})
    with pytest.raises(DataError, match="cannot be compared: token store"):
        Verdicts().draw(runs)


def test_unfinished_runs_are_no_outcome(tmp_path):
    runs = write_runs(tmp_path, ("softmax", "sigmoid"), seeds=2)
    running = write_run(tmp_path / "more", "head_rmsnorm", 0, until=16)
    canvas = Verdicts().draw([*runs, running])
    assert "head_rmsnorm (no record)" in texts(canvas)
    assert not artists(canvas, "head_rmsnorm")
