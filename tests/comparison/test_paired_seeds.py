import numpy as np
import pytest
from scipy import stats
from training_runs import experiment, outcome

from sinkpretrain.comparison.paired_seeds import Question, SeedEffect, judge, paired
from sinkpretrain.comparison.pairs import Pair
from sinkpretrain.comparison.tuning import Variant
from sinkpretrain.comparison.verdicts import judged

CLAIMS = {"gain", "harm", "higher", "lower", "no gain"}


def effect(*differences):
    return SeedEffect(np.array(differences, dtype=np.float64))


def asked(*differences, up="gain", down="harm", margin=None, no_claim=""):
    return Question(effect=effect(*differences), up=up, down=down, margin=margin, no_claim=no_claim)


def test_interval_and_p_are_students():
    baseline_S, variant_S = [3.10, 3.12, 3.07, 3.11], [3.05, 3.06, 3.05, 3.04]
    found = paired(baseline_S, variant_S)
    expected = stats.ttest_rel(variant_S, baseline_S)
    assert found.mean == pytest.approx(np.mean(variant_S) - np.mean(baseline_S))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    one_sided = stats.ttest_1samp(np.subtract(variant_S, baseline_S), -0.03, alternative="less").pvalue
    assert found.p_below(-0.03) == pytest.approx(one_sided)


def test_two_seeds_have_an_interval_and_one_has_none():
    assert effect(0.1, 0.2).interval == pytest.approx(stats.t.interval(0.95, 1, 0.15, 0.05))
    assert effect(0.1).interval is None
    assert effect(0.1).p == 1.0


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_differences_without_spread_are_judged_by_their_signs(noise):
    """Three times the same step of a counted share: the t-test would say p = 0."""
    found = paired([3.0, 4.0, 5.0], [3.25, 4.25 + noise, 5.25])
    assert found.interval is None
    assert found.p == 0.25
    assert found.p_below(1.0) == 0.125
    assert found.p_below(0.2) == 1.0
    (verdict,) = judge([Question(effect=found, up="higher", down="lower")])
    assert (verdict.word, verdict.p) == ("inconclusive", 0.25)
    assert "sign test" in verdict.reason
    eight = paired(np.arange(1.0, 9), np.arange(1.25, 9))
    assert judge([Question(effect=eight, up="higher", down="lower")])[0].word == "higher"


def test_words():
    clear, near, unclear = (1.0, 1.1, 0.9), (0.001, -0.001, 0.0005), (0.05, -0.04, 0.01)
    words = [
        verdict.word
        for question in (
            asked(*clear),
            asked(*np.negative(clear)),
            asked(*near, margin=0.01),
            asked(*near),
            asked(*unclear, margin=0.01),
            asked(0.0, 0.0, 0.0, margin=0.01),
            asked(*clear, no_claim="2 shared seeds"),
        )
        for verdict in judge([question])
    ]
    assert words == ["gain", "harm", "no gain", "inconclusive", "inconclusive", "identical", "no claim"]


def test_holm_is_over_what_may_be_claimed_and_counts_what_cannot_be_estimated():
    p = effect(1.0, 1.1, 0.65).p
    assert 0.05 / 3 < p < 0.05 / 2
    unknown = Question(effect=None, up="gain", down="harm")
    unclear = asked(1.0, -1.0, 0.5)
    assert judge([asked(1.0, 1.1, 0.65), unclear])[0].word == "gain"
    first, *_ = judge([asked(1.0, 1.1, 0.65), unclear, unknown])
    assert (first.word, first.p) == ("inconclusive", pytest.approx(3 * p))
    assert "3 tests" in first.reason
    few = asked(1.0, 1.1, no_claim="2 shared seeds")
    assert judge([asked(1.0, 1.1, 0.65), unclear, few])[0].word == "gain"


def simulated(rng, seeds, effects=(0.0, 0.0, 0.0)):
    """Records of the pairs of three variants: 5 metrics and speed, with effects of seeds and correlated noise."""
    seed_1SM, run_VS1 = rng.normal(size=(1, seeds, 5)), rng.normal(size=(3, seeds, 1))
    noise_VSM = 1.5 * seed_1SM + 0.7 * run_VS1 + 0.7 * rng.normal(size=(3, seeds, 5))
    loss_VS = 3.8 + 0.01 * noise_VSM[..., 0] + np.array(effects)[:, None]
    return judged(experiment(loss_VS, 1 + 0.1 * noise_VSM[..., 1:], 0.01 * rng.normal(size=(3, seeds))))[0]


def words(pairs):
    return [of["word"] for pair in pairs for of in (*pair["effects"], pair["speed_up"])]


@pytest.mark.parametrize("seeds", [3, 4])
def test_simulated_equal_variants_are_told_apart_at_the_stated_rate(seeds):
    """Of all the tests of an experiment some claim errs in at most 5 %, of one test alone in about 5 %."""
    rng, experiments = np.random.default_rng(seeds), 2000
    some, alone = 0, 0
    for _ in range(experiments):
        pairs = simulated(rng, seeds)
        some += bool(CLAIMS - {"no gain"} & set(words(pairs)))
        alone += pairs[0]["effects"][1]["p"] < 0.05
    error = 3 * np.sqrt(0.05 * 0.95 / experiments)
    assert 0.015 < some / experiments < 0.05 + error
    assert alone / experiments == pytest.approx(0.05, abs=error)


@pytest.mark.parametrize(("seeds", "expected"), [(3, 0.14), (4, 0.40), (6, 0.93)])
def test_simulated_differences_are_found_as_often_as_students_t_finds_them(seeds, expected):
    """A loss lower by 0.05 nats, where paired differences of a seed scatter by 0.014, among 18 tests."""
    rng, experiments, spread = np.random.default_rng(seeds), 200, 0.01 * np.sqrt(2 * (0.7**2 + 0.7**2))
    found = [simulated(rng, seeds, (0.0, -0.05, 0.0))[0]["effects"][0]["word"] for _ in range(experiments)]
    assert set(found) <= {"gain", "inconclusive"}
    threshold = stats.t.isf(0.05 / 18 / 2, seeds - 1)
    bonferroni = stats.nct.sf(threshold, seeds - 1, 0.05 / spread * np.sqrt(seeds))
    assert bonferroni == pytest.approx(expected, abs=0.05)
    error = 3 * np.sqrt(expected * (1 - expected) / experiments)
    assert (
        bonferroni - error < found.count("gain") / experiments < bonferroni + 0.05 + error
    )  # Holm finds a little more


@pytest.mark.parametrize(("means", "low", "high"), [((0.0, 0.0, 0.0), 0.01, 0.05), ((0.0, 3.0, 3.0), 0.035, 0.085)])
def test_simulated_choice_of_the_learning_rate_errs_little(means, low, high):
    """One variant's three rates are equally good, the other's too or only one of them: the expected best are equal."""
    rng, experiments, seeds = np.random.default_rng(0), 1500, 3
    rates = (1e-3, 2e-3, 4e-3)
    wrong = 0
    for _ in range(experiments):
        seed_S1 = rng.normal(size=(seeds, 1))
        variants = []
        for name, mean_R in (("a", np.zeros(3)), ("b", np.array(means))):
            loss_SR = 4 + 0.01 * (seed_S1 + rng.normal(size=(seeds, 3)) + 10 * mean_R)
            runs = [
                outcome(name, seed, loss_SR[seed, place], rate=rate)
                for seed in range(seeds)
                for place, rate in enumerate(rates)
            ]
            variants.append(Variant(name=name, outcomes=tuple(runs)))
        found = Pair(baseline=variants[0], variant=variants[1])
        assert not found.no_claim
        wrong += found.effects["val/loss"].p < 0.05
    assert low <= wrong / experiments <= high
