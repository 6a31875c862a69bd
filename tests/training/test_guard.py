"""Which steps the guard objects to, from losses alone."""

import math

import pytest

from sinkpretrain.config import GuardConfig
from sinkpretrain.training.guard import HISTORY, JUDGED_FROM, Guard


def after(losses, **options):
    guard = Guard(GuardConfig(**options))
    for loss in losses:
        assert guard.judge(loss) is None
    return guard


USUAL = [3.0 + 0.1 * (-1) ** step for step in range(HISTORY)]  # deviation 0.1


@pytest.mark.parametrize("numbers", [(math.nan,), (math.inf,), (-math.inf,), (3.0, math.nan), (3.0, math.inf)])
def test_what_is_not_finite_is_objected_to_from_the_first_step(numbers):
    objection = after([]).judge(*numbers)
    assert objection.why == "is not finite"
    assert not objection.is_skipped


@pytest.mark.parametrize(
    ("loss", "options", "is_spike"),
    [
        (4.05, {}, True),
        (3.95, {}, False),  # less than a nat above the mean, though 9.5 deviations
        (3.95, {"spike_nats": 0.5}, True),
        (4.05, {"spike_deviations": 20.0}, False),
        (2.0, {}, False),  # far below
        (100.0, {"spike": "off"}, False),
    ],
)
def test_a_spike_is_far_above_by_both_measures(loss, options, is_spike):
    objection = after(USUAL, **options).judge(loss)
    assert (objection is not None) == is_spike
    if is_spike:
        assert objection.why == "is a spike: the 128 steps before had 3 +- 0.1"


def test_a_young_run_has_no_spikes():
    assert after([3.0] * (JUDGED_FROM - 1)).judge(9.0) is None
    assert after([3.0] * JUDGED_FROM).judge(9.0) is not None


def test_a_falling_loss_is_judged_by_the_latest_steps():
    assert after([9.0] * HISTORY + USUAL).judge(4.5) is not None
    assert after([9.0] * HISTORY + USUAL[:64]).judge(4.5) is None


def test_a_step_that_is_left_out_does_not_count_as_usual():
    guard = after(USUAL, spike="skip")
    for _ in range(5):
        assert guard.judge(50.0).is_skipped
    assert guard.skipped == 5
    assert max(guard.losses) < 4


def test_patience_ends_and_begins_anew():
    guard = after([], nonfinite="skip", patience=2)
    assert [guard.judge(math.nan).is_skipped for _ in range(3)] == [True, True, False]
    assert guard.judge(3.0) is None
    assert guard.judge(math.nan).is_skipped
    assert guard.skipped == 3


def test_each_choice_is_of_its_own_kind():
    guard = after(USUAL, nonfinite="skip", spike="stop")
    assert guard.judge(math.nan).is_skipped
    assert not guard.judge(50.0).is_skipped


def test_a_restored_guard_judges_alike():
    guard = after(USUAL, nonfinite="skip", patience=2)
    guard.judge(math.nan)
    other = Guard(guard.config)
    other.restore(guard.state)
    assert other.state == guard.state
    assert other.judge(math.nan).is_skipped
    assert not other.judge(math.nan).is_skipped
