"""Histograms of attention scores: known bins, everything counted once, NumPy's histogram.

Shapes use B batch, T query positions, S key positions, H query heads, K bins.
"""

import numpy as np
import torch

from sinkpretrain.metrics.score_distribution import EDGES

TOKENS, BINS = 24, 60
KINDS = ("first", "sinks", "others")


def columns(score_S):
    """Weights, [1, 1, T, S], of which every key k has the attention score that is given."""
    return torch.tensor(score_S).expand(len(score_S), -1).tril()[None, None]


def bins(count_K):
    """Where the counts are, as {bin: count}."""
    return {int(k): count_K[k] for k in np.flatnonzero(count_K)}


def test_bins_are_ten_a_decade():
    assert len(EDGES) == BINS + 1
    np.testing.assert_allclose(np.log10(EDGES), np.arange(BINS + 1) / 10 - 6, atol=1e-12)


def test_counts_of_known_scores(make_view, measured):
    """ACT's rule draws the line at 5 / 24 = 0.208."""
    score_S = [3e-3] * TOKENS
    score_S[0], score_S[7], score_S[9] = 0.5, 0.4, 0.2
    view = make_view(columns(score_S).repeat(2, 3, 1, 1))
    arrays = measured("score_distribution", view)
    assert bins(arrays["first"]) == {56: 6.0}  # 10 (6 + log10 0.5) = 56.99
    assert bins(arrays["sinks"]) == {56: 6.0}  # 56.02
    assert bins(arrays["others"]) == {34: 6.0 * (TOKENS - 3), 53: 6.0}  # 34.77 and 53.01
    np.testing.assert_array_equal(arrays["edges"], EDGES)


def test_a_low_score_at_the_first_position_is_still_the_first_ones(make_view, measured):
    arrays = measured("score_distribution", make_view(columns([3e-3] * TOKENS)))
    assert bins(arrays["first"]) == {34: 1.0}
    assert not arrays["sinks"].any()


def test_scores_beyond_the_edges_count_in_the_outermost_bins(make_view, measured):
    score_S = [0.0, 1e-8, 1.0, 5.0] + [0.012] * (TOKENS - 4)
    arrays = measured("score_distribution", make_view(columns(score_S)))
    assert bins(arrays["first"]) == {0: 1.0}
    assert bins(arrays["sinks"]) == {BINS - 1: 2.0}
    assert bins(arrays["others"]) == {0: 1.0, 40: TOKENS - 4.0}


def test_kinds_go_by_raw_weights_also_where_rows_are_normalised(make_view, measured):
    weights_BHTS = torch.zeros(1, 1, TOKENS, TOKENS)
    weights_BHTS[..., 5] = 0.1  # a score of 0.1 is no sink; normalised it is 1
    arrays = measured("score_distribution", make_view(weights_BHTS.tril()))
    assert not arrays["sinks"].any()
    assert not arrays["sinks_normalised"].any()
    assert arrays["others"][50] == 1
    assert arrays["others_normalised"][BINS - 1] == 1


def test_documents_match_numpy_and_everything_is_counted_once(
    make_view, measured, causal_weights, packed_BT, documents
):
    weights_BHTS = causal_weights("random", 2, 3, TOKENS, packed_BT)
    weights_BHTS[weights_BHTS < 0.5] *= 1e-2
    weights_BHTS[1, 2, 20:] = 0.0  # queries without mass, after them keys that no query with mass sees
    scores = {f"{kind}{suffix}": [] for kind in KINDS for suffix in ("", "_normalised")}
    for window, place in documents(packed_BT):
        for own_TS in weights_BHTS[window, :, place, place].double().numpy():
            has_mass_T = own_TS.any(axis=1)
            normalised_TS = own_TS / np.where(has_mass_T, own_TS.sum(axis=1), 1.0)[:, None]
            for k in range(len(own_TS)):
                score = own_TS[k:, k].mean()
                kind = "first" if k == 0 else "sinks" if score > 5 / len(own_TS) else "others"
                scores[kind].append(score)
                if has_mass_T[k:].any():
                    scores[f"{kind}_normalised"].append(normalised_TS[k:, k][has_mass_T[k:]].mean())
    arrays = measured("score_distribution", make_view(weights_BHTS, packed_BT))
    for name, values in scores.items():
        assert len(values) > 0
        expected_K, _ = np.histogram(np.clip(values, EDGES[0], EDGES[-1]), EDGES)
        np.testing.assert_array_equal(arrays[name], expected_K, err_msg=name)
    assert sum(arrays[name].sum() for name in KINDS) == 2 * 3 * TOKENS
    assert sum(arrays[f"{name}_normalised"].sum() for name in KINDS) == 2 * 3 * TOKENS - 4


def test_nan_never_reads_no_sink(make_view, measured):
    """A score of NaN is neither a sink nor none: it leaves both counts unknown, and the first token's as it is."""
    weights_BHTS = columns([0.5] + [3e-3] * (TOKENS - 1))
    weights_BHTS[..., 9:, 9] = torch.nan
    arrays = measured("score_distribution", make_view(weights_BHTS))
    assert bins(arrays["first"]) == {56: 1.0}
    for name in ("sinks", "others", "first_normalised", "others_normalised", "sinks_normalised"):
        assert np.isnan(arrays[name]).all(), name
