"""When sinks emerge and whether early super neurons foretell it, on planted series."""

import itertools

import numpy as np
import pytest

from sinkpretrain.comparison.emergence import emergence, emergences, kendall, prediction, settled
from sinkpretrain.config import Config
from sinkpretrain.runs import Run

STEPS = (0, 1, 2, 4, 8, 16, 20, 32)
TOKENS_A_STEP = 100
LATE, NEVER = [0, 0, 0, 0, 0, 0, 0, 0.4], [0.0] * 8


@pytest.fixture
def planted(tmp_path):
    def write(rates, ratios=(), *, variant="softmax", seed=0, steps=STEPS):
        run = Run(tmp_path / f"{variant}-s{seed}")
        run.create(Config(variant=variant, seed=seed))
        for at, (step, rate) in enumerate(zip(steps, rates, strict=False)):
            row = {"step": step, "tokens": step * TOKENS_A_STEP, "seconds": 0.1 * step, "sink/rate_normalised": rate}
            run.append_metrics(row | ({"activation/neuron_peak_ratio": ratios[at]} if at < len(ratios) else {}))
        return run

    return write


@pytest.mark.parametrize(
    ("values", "index"),
    [
        ([0, 0.05, 0.1, 0.2], 2),  # the level itself counts
        ([0, 0.3, 0.05, 0.2, 0.4], 3),  # a dip below resets
        ([0, 0, 0.5], 2),
        ([0.5, 0.5], 0),
        ([0.5, 0.09], None),
        ([0.0], None),
        ([], None),
        ([0, 0.5, float("nan"), 0.5], 3),
        ([0.5, float("nan")], None),
    ],
)
def test_settled_is_where_a_series_stays_at_the_level(values, index):
    assert settled(values, 0.1) == index


def test_emergence_is_the_first_probe_at_the_level_that_no_later_one_falls_below(planted):
    found = emergence(planted([0, 0, 0.3, 0.05, 0.1, 0.2, 0.3, 0.3], [1, 2.5, 1, 2, 2, 3, 4, 9]))
    assert (found.step, found.tokens, found.below, found.probed_until) == (8, 800, 4, 32)
    assert (found.neurons_step, found.lead) == (4, 4)
    assert (found.variant, found.seed, found.level, found.ratio) == ("softmax", 0, 0.1, 2.0)


def test_levels_are_arguments(planted):
    run = planted([0, 0, 0.3, 0.05, 0.1, 0.2, 0.3, 0.3], [1, 2.5, 1, 2, 2, 3, 4, 9])
    found = emergence(run, level=0.25, ratio=5)
    assert (found.step, found.below, found.neurons_step, found.lead) == (20, 16, 32, -12)


def test_a_sink_at_the_last_probe_only_counts(planted):
    found = emergence(planted(LATE, [1] * 8))
    assert (found.step, found.below, found.neurons_step, found.lead) == (32, 20, None, None)


def test_a_run_without_a_sink_is_censored_where_it_was_last_probed(planted):
    found = emergence(planted(NEVER, [3] * 8))
    assert (found.step, found.tokens, found.below, found.probed_until, found.lead) == (None, None, 32, 32, None)


def test_a_run_without_the_metric_is_left_out(planted, tmp_path):
    silent = Run(tmp_path / "silent")
    silent.create(Config())
    assert emergence(silent) is None
    assert len(emergences([silent, planted(LATE)])) == 1


def several(planted, emerged_at, ratios, **more):
    """Runs whose sinks emerge at these places of STEPS (None: never), with the ratio constant over training."""
    return [
        planted([0.5 * (at is not None and place >= at) for place in range(8)], [ratio] * 8, seed=seed, **more)
        for seed, (at, ratio) in enumerate(zip(emerged_at, ratios, strict=True))
    ]


def test_tau_is_minus_one_where_strong_neurons_come_first(planted):
    found = prediction(emergences(several(planted, [3, 4, 5, 6, 7], [9, 8, 7, 6, 5])))
    assert (found.runs, found.emerged, found.left_out, found.step) == (5, 5, 0, 2)
    assert (found.tau, found.p) == (pytest.approx(-1), pytest.approx(2 / 120))
    assert "no claim" not in found.sentence()
    assert "5 runs, 5 of them with a sink; Kendall's tau -1.00, p = 0.017 for the ratio at step 2" in found.sentence()


def test_the_early_step_is_log_spaced_and_shared_by_all(planted):
    at_20 = several(planted, [7, 7], [3, 4])
    assert prediction(emergences(at_20)).step == 16  # 20 is nearer, but no power of two
    sparse = planted([0, 0, 0.5], [1, 1, 1], seed=9, steps=(0, 4, 32))
    assert prediction(emergences([*at_20, sparse])).step == 4
    from_the_start = several(planted, [0, 1], [3, 4], variant="other")
    assert prediction(emergences(from_the_start)).step is None
    assert "tau" not in prediction(emergences(from_the_start)).sentence()


def test_no_claim_is_made_on_four_sinks(planted):
    found = prediction(emergences(several(planted, [3, 4, 5, 6, None], [9, 8, 7, 6, 5])))
    assert (found.runs, found.emerged, found.tau) == (5, 4, pytest.approx(-1))  # the censored run ranks last
    assert found.sentence().startswith("no claim")
    assert "5 runs, 4 of them with a sink" in found.sentence()


def test_variants_without_sinks_and_runs_that_ended_too_early_have_no_rank(planted):
    runs = several(planted, [3, 4, 5, 6, 7], [9, 8, 7, 6, 5])
    ended = planted([0, 0, 0, 0], [99] * 4, seed=7)
    silent = planted(LATE, seed=8)
    without = several(planted, [None, None], [50, 60], variant="sigmoid")
    found = prediction(emergences([*runs, ended, silent, *without]))
    assert (found.runs, found.emerged, found.left_out) == (5, 5, 2)
    assert "2 more left out" in found.sentence()
    assert prediction(emergences(without)).runs == 0
    assert prediction(emergences(without)).sentence().startswith("no claim")


def test_equal_ratios_carry_no_claim(planted):
    found = prediction(emergences(several(planted, [3, 4, 5, 6, 7], [4] * 5)))
    assert (found.tau, found.p) == (None, None)
    assert found.sentence().startswith("no claim")


def test_p_with_ties_is_the_share_of_all_orders_as_extreme():
    x, y = np.array([1.0, 2, 2, 4, 5]), np.array([1, 1, 2, 2, np.inf])

    def concordance(x):
        return sum(
            np.sign(x[i] - x[j]) * (0 if y[i] == y[j] else np.sign(y[i] - y[j])) for i in range(5) for j in range(i)
        )

    every = [concordance(x[list(order)]) for order in itertools.permutations(range(5))]
    one_sided = np.mean(np.array(every) >= concordance(x))
    tau, p = kendall(x, y)
    assert p == pytest.approx(2 * one_sided)
    assert tau == pytest.approx(concordance(x) / np.sqrt(9 * 8))
