"""ACT that calibrated nothing says so, and why.

Shapes use B batch, T positions.
"""

import warnings

import pytest
import torch

import sinkpretrain as sp
from sinkpretrain.interventions.base import NothingChanged
from sinkpretrain.model.llama import weight_rows

LOOSE = {"alpha": 1.2}  # these models have few sinks by the paper's alpha


@pytest.mark.parametrize(
    ("heads", "settings", "why"),
    [
        ([], {}, "no head was chosen"),
        ("all", {"detection": "absolute", "threshold": 0.999}, "none of the 8 heads met a later sink"),
        ([(2, 1)], {"alpha": 1e6}, "none of the 1 heads met a later sink"),
        ("all", {"beta": 1.0, **LOOSE}, "its settings change nothing"),
        ("all", {"method": "temperature", "theta": 1.0}, "its settings change nothing"),
    ],
)
def test_a_no_op_is_said_and_is_one(heads, settings, why, model, tokens_BT):
    before_BTV = model(tokens_BT)
    with (
        pytest.warns(NothingChanged, match=f"ACT is a no-op: {why}") as found,
        sp.calibrate(model, heads, **settings) as act,
    ):
        assert torch.equal(model(tokens_BT), before_BTV)
    assert [warning.filename for warning in found] == [__file__]
    assert why in act.why_nothing()


def test_no_pass_and_a_pass_of_another_model_are_said(model, build, tokens_BT):
    other = build()
    with (
        pytest.warns(NothingChanged, match="no forward pass of this model reached a calibrated layer"),
        sp.calibrate(model, **LOOSE) as act,
    ):
        other(tokens_BT)
    assert act.reached == set()


@pytest.mark.parametrize("settings", [LOOSE, {"method": "temperature"}, {**LOOSE, "columns": "random"}], ids=str)
def test_what_calibrates_is_silent(settings, any_model, tokens_BT):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingChanged)
        with sp.calibrate(any_model, **settings) as act:
            any_model(tokens_BT)
        assert act.reached == {2, 3}
        with sp.calibrate(any_model, [(2, head) for head in range(4)], **LOOSE) as act:
            list(weight_rows(any_model, tokens_BT, 2))
        assert act.reached == {2}
        assert act.why_nothing() == ""


def test_sinks_with_nothing_to_trade_are_said(model, tokens_BT, monkeypatch):
    from sinkpretrain.calibration import act as module

    monkeypatch.setattr(module, "calibrated", lambda weights_BHRS, *_: weights_BHRS)
    with (
        pytest.warns(NothingChanged, match="no row that has a sink has other attention"),
        sp.calibrate(model, redistribution="uniform", **LOOSE),
    ):
        model(tokens_BT)


def test_an_error_inside_is_not_hidden_by_a_warning(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingChanged)
        with pytest.raises(KeyError), sp.calibrate(model, []):
            raise KeyError
