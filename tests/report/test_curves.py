"""The data of the curves: real values, honest means and bands, few enough points, the looks of the figures."""

import json

import numpy as np
import pytest
from made_up import RATES, member, write_sweep
from synthetic_runs import write_runs

from sinkpretrain.cli.results import runs_of
from sinkpretrain.figures.base.arms import arms_of, mean_curve, series_curves
from sinkpretrain.figures.base.style import COLOURS
from sinkpretrain.report import curves as module
from sinkpretrain.report.curves import curves, thinned
from sinkpretrain.report.scope import scope_of


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = write_sweep(tmp_path_factory.mktemp("runs") / "sweep")
    return curves(scope_of(runs_of([root]), root))


def test_every_seed_has_its_recorded_values(tmp_path):
    runs = [member(tmp_path / "sweep", "softmax", seed, 1e-3) for seed in range(2)]
    (arm,) = curves(scope_of(runs))["arms"]
    assert [run["name"] for run in arm["runs"]] == ["softmax-lr0.001-s0", "softmax-lr0.001-s1"]
    for shown, run in zip(arm["runs"], runs, strict=True):
        steps, losses = run.series("val/loss")
        curve = shown["curves"]["val/loss"]
        assert curve["step"] == steps.tolist()
        assert curve["tokens"] == (2048 * steps).tolist()
        np.testing.assert_allclose(curve["value"], losses, rtol=1e-6)
        assert curve["seconds"] == [row["seconds"] for row in run.metrics() if "val/loss" in row]


def test_means_are_those_of_the_figures_and_bands_hold_every_seed(tmp_path):
    runs = [
        member(tmp_path / "sweep", "softmax", seed, 1e-3, until=until) for seed, until in enumerate((1000, 600, 1000))
    ]
    (shown,), (arm,) = curves(scope_of(runs))["arms"], arms_of(runs)
    mean = shown["means"]["val/loss"]
    for axis in ("tokens", "step", "seconds"):
        expected = mean_curve(series_curves(arm, "val/loss", axis))
        assert mean["step"] == expected.keys.tolist() == list(range(0, 601, 100))
        np.testing.assert_allclose(mean[axis], expected.x, rtol=1e-6)
        np.testing.assert_allclose(mean["value"], expected.y, rtol=1e-6)
    at_300 = [run.series("val/loss")[1][3] for run in runs]
    assert (mean["low"][3], mean["high"][3]) == pytest.approx((min(at_300), max(at_300)), rel=1e-6)
    assert mean["seeds"] == 3


def test_long_curves_are_thinned_between_their_ends(monkeypatch, tmp_path):
    run = member(tmp_path / "sweep", "softmax", 0, 1e-3)
    monkeypatch.setattr(module, "MOST_POINTS", 30)
    monkeypatch.setattr(module, "FEWEST_POINTS", 30)
    (arm,) = curves(scope_of([run]))["arms"]
    curve = arm["runs"][0]["curves"]["train/loss"]
    steps, losses = run.series("train/loss")
    assert len(steps) == 100
    assert len(curve["step"]) == 30
    assert (curve["step"][0], curve["step"][-1]) == (steps[0], steps[-1])
    assert (curve["value"][0], curve["value"][-1]) == pytest.approx((losses[0], losses[-1]), rel=1e-6)
    for count in (1, 2, 999, 1000, 5000):
        kept = thinned(count, 1000)
        assert (kept[0], kept[-1], len(kept)) == (0, count - 1, min(count, 1000))


def test_many_runs_share_what_a_page_has_room_for(monkeypatch, tmp_path):
    runs = [member(tmp_path / "sweep", "softmax", seed, 1e-3) for seed in range(3)]

    def points():
        (arm,) = curves(scope_of(runs))["arms"]
        return [
            len(one["step"]) for of in (*(run["curves"] for run in arm["runs"]), arm["means"]) for one in of.values()
        ]

    before = sum(points())
    monkeypatch.setattr(module, "ALL_POINTS", 400)
    monkeypatch.setattr(module, "FEWEST_POINTS", 5)
    assert before > 600
    assert sum(points()) <= 400
    assert min(points()) > 5


def test_what_is_not_finite_is_a_gap_and_the_run_is_marked(sweep):
    (arm,) = [arm for arm in sweep["arms"] if arm["name"] == "sigmoid, lr 0.001"]
    marks = {run["name"]: (run["note"], run["diverged"]) for run in arm["runs"]}
    assert marks == {
        "sigmoid-lr0.001-s0": ("diverged", True),
        "sigmoid-lr0.001-s1": ("failed", False),
        "sigmoid-lr0.001-s2": ("running", False),
    }
    values = arm["runs"][0]["curves"]["train/loss"]["value"]
    assert values[-1] is None
    assert None not in values[:-1]
    json.dumps(sweep, allow_nan=False)


def test_learning_rates_are_told_apart_and_the_chosen_one_is_solid(sweep):
    looks = {arm["name"]: (arm["light"], arm["symbol"], arm["dash"]) for arm in sweep["arms"]}
    assert looks == {
        "softmax, lr 0.001": (COLOURS[0], "circle", "dash"),
        "softmax, lr 0.004 (chosen)": (COLOURS[0], "circle", "solid"),
        "sigmoid, lr 0.001": (COLOURS[1], "square", "dash"),
        "sigmoid, lr 0.004 (chosen)": (COLOURS[1], "square", "solid"),
    }


def test_one_variant_at_several_rates_has_a_colour_for_each(tmp_path):
    runs = [member(tmp_path / "sweep", "softmax", 0, rate) for rate in RATES]
    arms = curves(scope_of(runs))["arms"]
    assert [(arm["name"], arm["light"], arm["dash"]) for arm in arms] == [
        ("softmax, lr 0.001", COLOURS[0], "solid"),
        ("softmax, lr 0.004", COLOURS[1], "solid"),
    ]
    assert [arm.name for arm in arms_of(runs)] == ["softmax, lr 0.001", "softmax, lr 0.004"]
    assert [arm.name for arm in arms_of(runs, by_rate=False)] == ["softmax"]


def test_colours_and_order_are_those_of_the_figures(tmp_path):
    runs = write_runs(tmp_path, ("sigmoid", "head_rmsnorm", "softmax"), 1)
    shown = curves(scope_of(runs))
    assert [(arm["name"], arm["light"]) for arm in shown["arms"]] == [
        ("sigmoid", COLOURS[0]),
        ("head_rmsnorm", COLOURS[1]),
        ("softmax", COLOURS[2]),
    ]
    assert shown["arms"][2]["dark"] != COLOURS[2]  # too dark on a dark screen
    assert all(not arm["means"] for arm in shown["arms"])  # one seed has no mean
