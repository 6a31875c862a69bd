"""Statistics of paired outcomes: formulas, and on simulated data with a known truth the rates of errors and power.

Letters: R repetitions, S seeds, I items, H heads.
"""

import numpy as np
import pytest
from scipy import stats

from sinkpretrain.errors import DataError
from sinkpretrain.evaluation.statistics import (
    LEVEL,
    Effect,
    Part,
    head_test,
    holm,
    mean_effect,
    paired_effect,
    verdict,
    verdicts,
)

REPETITIONS, ITEMS = 1000, 500
TAIL = (1 - LEVEL) / 2


def at_most(rate: float, repetitions: int = REPETITIONS) -> float:
    """A rate with three standard errors of a simulation."""
    return rate + 3 * np.sqrt(rate * (1 - rate) / repetitions)


def normal(rng, seeds, *, effect=0.0, of_seeds=0.0, of_items=0.0, rest=1.0, items=ITEMS, repetitions=REPETITIONS):
    """Differences of normal outcomes, [R, S, I], with these standard deviations of the crossed effects."""
    shape = (repetitions, seeds, items)
    return (
        effect
        + of_seeds * rng.standard_normal((*shape[:2], 1))
        + of_items * rng.standard_normal((shape[0], 1, items))
        + rest * rng.standard_normal(shape)
    )


def flips(rng, seeds, gained, lost, *, of_seeds=0.0, shared=0.5, items=ITEMS, repetitions=REPETITIONS):
    """Differences of accuracies: shares of items gained and lost, part of the items the same for all seeds."""
    own = rng.random((repetitions, seeds, items))
    common = rng.random((repetitions, 1, items))
    draw = np.where(rng.random((repetitions, 1, items)) < shared, common, own)
    shift = of_seeds * rng.standard_normal((repetitions, seeds, 1))
    return (draw < gained + np.maximum(shift, 0)).astype(float) - (draw > 1 - lost - np.maximum(-shift, 0))


def rates(effects, truth=0.0):
    """How often the interval lies above the truth, and how often below."""
    low, high = (np.array([getattr(effect, end) for effect in effects]) for end in ("low", "high"))
    return float(np.mean(low > truth)), float(np.mean(high < truth))


def test_one_seed_is_the_paired_t_interval():
    gain_I = np.random.default_rng(0).normal(0.1, 1, 40)
    effect, expected = paired_effect(gain_I[None]), stats.ttest_1samp(gain_I, 0)
    interval = expected.confidence_interval(LEVEL)
    assert (effect.mean, effect.low, effect.high) == pytest.approx((gain_I.mean(), interval.low, interval.high))
    assert effect.p == pytest.approx(expected.pvalue)
    assert effect.standard_error == pytest.approx(stats.sem(gain_I))


def test_the_variance_is_that_of_the_two_way_layout_and_never_below_a_one_way_one():
    rng = np.random.default_rng(1)
    for of_seeds, of_items in ((0, 0), (0.5, 0), (0, 1), (0.2, 0.5)):
        for value_SI in normal(rng, 4, of_seeds=of_seeds, of_items=of_items, items=30, repetitions=20):
            seeds, items = value_SI.shape
            over_seeds = value_SI.mean(axis=1).var(ddof=1) / seeds
            over_items = value_SI.mean(axis=0).var(ddof=1) / items
            rest_SI = value_SI - value_SI.mean(axis=0) - value_SI.mean(axis=1, keepdims=True) + value_SI.mean()
            rest = np.square(rest_SI).sum() / ((seeds - 1) * (items - 1) * seeds * items)
            variance = paired_effect(value_SI).standard_error ** 2
            assert variance >= max(over_seeds, over_items) * (1 - 1e-12)
            if min(over_seeds, over_items) > rest:
                assert variance == pytest.approx(over_seeds + over_items - rest)


def test_tasks_have_equal_weight_and_share_their_seeds():
    rng = np.random.default_rng(2)
    one, two = normal(rng, 3, items=20, repetitions=1)[0], normal(rng, 3, items=50, repetitions=1)[0]
    both = mean_effect([one, two])
    assert both.mean == pytest.approx((one.mean() + two.mean()) / 2)
    assert (both.items, both.seeds) == (70, 3)
    mean_S = (one.mean(axis=1) + two.mean(axis=1)) / 2
    assert both.parts[0] == Part(pytest.approx(mean_S.var(ddof=1) / 3), 2)
    opposite = np.array([[1.0], [-1.0], [0.0]])
    cancelled = mean_effect([one + opposite, two - opposite])
    assert cancelled.half_width() == pytest.approx(both.half_width(), rel=0.05)
    assert paired_effect(one + opposite).half_width() > 2 * both.half_width()


def test_p_is_one_minus_the_level_of_the_interval_that_just_reaches_the_reference():
    parts = (Part(0.02, 2), Part(0.01, 99))
    effect = Effect(mean=0.3, parts=parts, seeds=3, items=100)
    assert effect.half_width(effect.p) == pytest.approx(0.3)
    touching = Effect(mean=effect.half_width(), parts=parts, seeds=3, items=100)
    assert touching.p == pytest.approx(1 - LEVEL)
    assert touching.low == pytest.approx(0)
    assert touching.p_below(touching.high) == pytest.approx(TAIL)
    assert touching.p_below(touching.low) == pytest.approx(1 - TAIL)
    assert Effect(mean=0.0, parts=parts, seeds=3, items=100).p == 1


DESIGNS = [(1, 0.0), (3, 0.0), (3, 0.01), (5, 0.0), (5, 0.01)]


@pytest.mark.parametrize(("seeds", "of_seeds"), DESIGNS)
@pytest.mark.parametrize("flipped", [0.01, 0.05])
def test_without_an_effect_gain_and_harm_err_at_most_at_the_stated_rate(seeds, of_seeds, flipped):
    rng = np.random.default_rng([3, seeds])
    differences = flips(rng, seeds, flipped, flipped, of_seeds=of_seeds)
    words = [verdict(paired_effect(value_SI, bounded=True)).word for value_SI in differences]
    assert words.count("gain") / len(words) <= at_most(TAIL)
    assert words.count("harm") / len(words) <= at_most(TAIL)
    assert words.count("no gain") + words.count("inconclusive") > 0.9 * len(words)


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize(("of_seeds", "of_items", "rest"), [(0, 1, 1), (0.05, 1, 1), (0.1, 0, 1), (0.2, 1, 0.3)])
def test_the_interval_covers_normal_effects(seeds, of_seeds, of_items, rest):
    rng = np.random.default_rng([14, seeds])
    spread = {"of_seeds": of_seeds if seeds > 1 else 0, "of_items": of_items, "rest": rest}
    above, below = rates([paired_effect(of) for of in normal(rng, seeds, effect=0.3, items=100, **spread)], 0.3)
    assert max(above, below) <= at_most(TAIL)
    if seeds == 1 or of_seeds == 0.2:
        assert above + below > 0.02, "and it is not wider than it must be"


def test_the_t_interval_over_few_flips_is_too_sure_and_the_imagined_items_mend_it():
    rng = np.random.default_rng(5)
    differences = flips(rng, 1, 0.01, 0.0)
    plain, mended = ([paired_effect(value_SI, bounded=of) for value_SI in differences] for of in (False, True))
    assert rates(plain, 0.01)[1] > 0.08
    assert max(rates(mended, 0.01)) <= at_most(TAIL)
    nothing = np.zeros((1, 100))
    assert paired_effect(nothing).high == 0
    assert paired_effect(nothing, bounded=True).high == pytest.approx(0.04, abs=0.002)  # rule of three: 3 of 100 items


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.01), (0.05, 0.03), (0.01, 0.0)])
def test_the_interval_covers_differences_of_accuracies(seeds, gained, lost):
    rng = np.random.default_rng([6, seeds])
    differences = flips(rng, seeds, gained, lost, of_seeds=0.0)
    effects = [paired_effect(value_SI, bounded=True) for value_SI in differences]
    assert max(rates(effects, gained - lost)) <= at_most(0.028)


@pytest.mark.parametrize("seeds", [1, 5])
def test_no_gain_is_said_of_an_effect_of_the_margin_at_most_at_the_stated_rate(seeds):
    rng = np.random.default_rng([7, seeds])
    differences = flips(rng, seeds, 0.025, 0.015, items=1000, repetitions=800)
    words = [verdict(paired_effect(value_SI, bounded=True), margin=0.01).word for value_SI in differences]
    assert words.count("no gain") / len(words) <= at_most(TAIL, 800)
    none = flips(rng, seeds, 0.005, 0.005, items=2000, repetitions=100)
    words = [verdict(paired_effect(value_SI, bounded=True), margin=0.01).word for value_SI in none]
    assert words.count("no gain") > 85


@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.02), (0.06, 0.04), (0.08, 0.03)])
def test_power_over_items_is_what_the_design_predicts(gained, lost):
    rng = np.random.default_rng(8)
    differences = flips(rng, 1, gained, lost)
    effect = gained - lost
    error = np.sqrt((gained + lost - effect**2) / ITEMS)
    counted = np.sqrt(error**2 + 4 / ITEMS**2)
    predicted = stats.norm.cdf((effect - stats.norm.ppf(1 - TAIL) * counted) / error)
    for sign, word in ((1, "gain"), (-1, "harm")):
        words = [verdict(paired_effect(sign * value_SI, bounded=True)).word for value_SI in differences]
        assert words.count(word) / len(words) == pytest.approx(predicted, abs=0.05)


@pytest.mark.parametrize(("seeds", "of_seeds"), DESIGNS[1:])
def test_power_over_seeds_is_what_the_design_predicts(seeds, of_seeds):
    """Against the same interval from exact variances and a chi-squared variance between seeds."""
    rng = np.random.default_rng([9, seeds])
    spread = {"of_seeds": of_seeds, "of_items": 0.2, "rest": 0.1}
    of_rest, of_items = 0.1**2 / (seeds * ITEMS), 0.2**2 / ITEMS
    between = of_seeds**2 / seeds + of_rest
    effect = 3.2 * np.sqrt(between + of_items)
    differences = normal(rng, seeds, effect=effect, **spread)
    words = [verdict(paired_effect(value_SI)).word for value_SI in differences]
    drawn_R = between * rng.chisquare(seeds - 1, 20_000) / (seeds - 1)
    seen_R = rng.normal(effect, np.sqrt(between + of_items), 20_000)
    items_R = np.maximum(of_items + of_rest - np.minimum(drawn_R, of_rest), 0)
    width_R = np.sqrt(stats.t.ppf(1 - TAIL, seeds - 1) ** 2 * drawn_R + stats.norm.ppf(1 - TAIL) ** 2 * items_R)
    predicted = np.mean(seen_R > width_R)
    assert predicted > 0.3
    assert words.count("gain") / len(words) == pytest.approx(predicted, abs=0.05)
    assert "harm" not in words


def effect_of(mean, error):
    return Effect(mean=mean, parts=(Part(error**2, 1000),), seeds=1, items=1001)


def test_verdicts_in_words():
    found = {
        (mean, error): verdict(effect_of(mean, error), margin=0.01).word
        for mean, error in ((0.03, 0.01), (-0.03, 0.01), (0.001, 0.002), (0.003, 0.01), (-0.015, 0.01), (0.004, 0.001))
    }
    assert list(found.values()) == ["gain", "harm", "no gain", "inconclusive", "no gain", "gain"]
    nothing = verdict(effect_of(0.0, 0.0), no_op="no head was chosen")
    assert (nothing.word, nothing.reason) == ("no-op", "no head was chosen")
    assert verdict(effect_of(0.03, 0.01), no_op="no head was chosen").word == "no-op"


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_verdicts_that_stand_side_by_side_are_adjusted_for_one_another():
    weak, none = effect_of(0.022, 0.01), effect_of(0.0, 0.01)
    assert verdict(weak).word == "gain"
    beside = verdicts([weak, none, none])
    assert beside[0].word == "inconclusive"
    assert beside[0].p == pytest.approx(3 * weak.p)
    with_no_ops = verdicts([weak, none, none], no_ops=["", "no sinks", "no sinks"])
    assert [one.word for one in with_no_ops] == ["gain", "no-op", "no-op"]
    near = effect_of(0.0, 0.0049)
    assert verdict(near, margin=0.01).word == "no gain"
    assert verdicts([near, none], margin=0.01)[0].word == "inconclusive"


def test_side_by_side_verdicts_of_null_effects_err_together_at_the_rate_of_one():
    rng = np.random.default_rng(10)
    wrong = 0
    for of_tasks in rng.standard_normal((REPETITIONS, 6, 1, 60)):
        words = {one.word for one in verdicts([paired_effect(value_SI) for value_SI in of_tasks])}
        wrong += bool(words & {"gain", "harm"})
    assert 0.02 < wrong / REPETITIONS <= at_most(1 - LEVEL)


def test_head_test_is_the_one_sided_t_test_with_benjamini_and_hochberg():
    rng = np.random.default_rng(11)
    gain_HI = rng.normal(0.5, 1, (5, 30))
    gain_HI[2] = 0
    gain_HI[3] = -1
    p_H, q_H = head_test(gain_HI)
    for head in (0, 1, 4):
        assert p_H[head] == pytest.approx(stats.ttest_1samp(gain_HI[head], 0, alternative="greater").pvalue)
    assert p_H[[2, 3]].tolist() == [1, 1]
    ranks = stats.rankdata(p_H, method="max")
    assert q_H[p_H.argmin()] == pytest.approx(np.min(p_H * 5 / ranks))
    assert [part.tolist() for part in head_test(np.zeros((0, 9)))] == [[], []]
    with pytest.raises(DataError, match="at least 2"):
        head_test(np.zeros((3, 1)))


def test_false_heads_are_no_larger_a_share_than_q_says():
    rng = np.random.default_rng(12)
    heads, true, items, level = 200, 20, 100, 0.05
    false_shares, found = [], []
    for _ in range(300):
        gain_HI = rng.standard_normal((heads, items)) + 0.5 * rng.standard_normal(items)  # items shared by all heads
        gain_HI[:true] += 0.5
        chosen_H = head_test(gain_HI)[1] <= level
        false_shares.append(chosen_H[true:].sum() / max(chosen_H.sum(), 1))
        found.append(chosen_H[:true].mean())
    assert np.mean(false_shares) <= level + 3 * np.std(false_shares) / np.sqrt(300)
    assert np.mean(found) > 0.6


def test_heads_chosen_on_calibration_items_look_better_there_than_they_are():
    """No head helps; the paper's rule still chooses some, and only fresh items show that they do not."""
    rng = np.random.default_rng(13)
    heads, items, repetitions = 60, 200, 400
    on_calibration, on_test, corrected = [], [], 0
    for _ in range(repetitions):
        calibration_HI, test_HI = flips(rng, heads, 0.02, 0.02, shared=0.0, items=items, repetitions=2)
        chosen_H = calibration_HI.mean(axis=1) > 0
        on_calibration.append(paired_effect(calibration_HI[chosen_H].sum(axis=0)[None]))
        on_test.append(paired_effect(test_HI[chosen_H].sum(axis=0)[None]))
        corrected += (head_test(calibration_HI)[1] <= 0.05).sum()
    assert rates(on_calibration)[0] > 0.95, "evaluated where they were chosen, heads without any effect gain"
    assert np.mean([effect.mean for effect in on_calibration]) > 0.1
    assert max(rates(on_test)) <= at_most(TAIL, repetitions)
    assert abs(np.mean([effect.mean for effect in on_test])) < 0.01
    assert corrected < 0.05 * repetitions, "the corrected rule chooses next to none of them"


def test_too_little_to_compare_is_refused():
    for differences in ([], [np.zeros((1, 1))]):
        with pytest.raises(DataError, match="at least one task, and two items"):
            mean_effect(differences)
    with pytest.raises(DataError, match="other numbers of seeds"):
        mean_effect([np.zeros((1, 5)), np.zeros((2, 5))])
