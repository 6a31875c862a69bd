"""Sinks by position: a planted sink, both rules at their edges, documents.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

import numpy as np
import pytest
import torch

TOKENS = 24


def harmonic(number):
    return sum(1 / n for n in range(1, number + 1))


def test_a_planted_sink_counts_once_for_each_sequence_and_head(make_view, measured, causal_weights):
    weights_BHTS = causal_weights("uniform", 3, 4, TOKENS)
    weights_BHTS[0:2, 1:4] = torch.eye(TOKENS)[7]  # all on token 7, in 2 sequences and 3 heads
    arrays = measured("sink_positions", make_view(weights_BHTS.tril()))
    expected_T = [6.0 if t == 7 else 0.0 for t in range(TOKENS)]
    assert arrays["flagged"].tolist() == expected_T
    assert arrays["flagged_causal_null"].tolist() == expected_T
    assert arrays["count"].tolist() == [12.0] * TOKENS


def test_uniform_attention_has_sinks_by_acts_rule_and_none_by_the_causal_null(make_view, measured, causal_weights):
    """Position 0 of 100 scores H_100 / 100 = 0.0519, above 5 / 100; position 1 scores 0.0423."""
    arrays = measured("sink_positions", make_view(causal_weights("uniform", 1, 2, 100)))
    assert arrays["flagged"].tolist() == [2.0] + [0.0] * 99
    assert not arrays["flagged_causal_null"].any()


@pytest.mark.parametrize("position", [4, 10, 15])
def test_edges_of_both_rules(make_view, measured, position):
    """One percent around each threshold; that of a neighbouring position is three percent away or more."""
    null = 5 * (harmonic(TOKENS) - harmonic(position)) / (TOKENS - position)
    for name, threshold in (("flagged", 5 / TOKENS), ("flagged_causal_null", null)):
        for factor in (0.99, 1.01):
            weights_BHTS = torch.zeros(1, 1, TOKENS, TOKENS)
            weights_BHTS[..., position] = factor * threshold
            arrays = measured("sink_positions", make_view(weights_BHTS.tril()))
            assert arrays[name][position] == (factor > 1), (name, factor)
            assert arrays[name].sum() == arrays[name][position]


def test_documents_match_a_loop(make_view, measured, causal_weights, packed_BT, documents):
    weights_BHTS = causal_weights("random", 2, 3, TOKENS, packed_BT) ** 2
    expected = {name: np.zeros(TOKENS) for name in ("flagged", "flagged_causal_null", "count")}
    for window, place in documents(packed_BT):
        own_HTS = weights_BHTS[window, :, place, place].double().numpy()
        length = own_HTS.shape[1]
        for k in range(length):
            score_H = own_HTS[:, k:, k].mean(axis=1)
            expected["flagged"][k] += (score_H > 5 / length).sum()
            expected["flagged_causal_null"][k] += (score_H > 5 * (harmonic(length) - harmonic(k)) / (length - k)).sum()
            expected["count"][k] += 3
    arrays = measured("sink_positions", make_view(weights_BHTS, packed_BT))
    assert 0 < expected["flagged"].sum() < expected["count"].sum()
    assert expected["count"][20:].tolist() == [0.0] * 4
    for name, expected_T in expected.items():
        np.testing.assert_array_equal(arrays[name], expected_T, err_msg=name)


def test_nan_never_reads_no_sink(make_view, measured, causal_weights):
    weights_BHTS = causal_weights("uniform", 1, 2, TOKENS)
    weights_BHTS[0, 1, 12:, 5] = torch.nan
    arrays = measured("sink_positions", make_view(weights_BHTS))
    for name in ("flagged", "flagged_causal_null"):
        assert np.flatnonzero(np.isnan(arrays[name])).tolist() == [5]


def test_rows_that_do_not_sum_to_one_are_flagged_by_their_shares_too(make_view, measured, causal_weights):
    """A row times any number is the same row divided by its sum; raw weights ten times as small flag nothing."""
    weights_BHTS = causal_weights("uniform", 2, 2, TOKENS)
    weights_BHTS[:, 0] = torch.eye(TOKENS)[7]
    whole = measured("sink_positions", make_view(weights_BHTS.tril()))
    tenth = measured("sink_positions", make_view(0.1 * weights_BHTS.tril()))
    assert whole["flagged"][7] == 2
    assert not tenth["flagged"].any()
    np.testing.assert_array_equal(tenth["flagged_normalised"], whole["flagged"])
    tokens_BT = torch.arange(TOKENS).repeat(2, 1)
    tokens = measured("sink_tokens", make_view(0.1 * weights_BHTS.tril(), tokens_BT=tokens_BT))
    assert tokens["later_normalised"][tokens["token"] == 7].tolist() == [2.0]
    assert not tokens["later"].any()
    scores = measured("attention_score", make_view(0.1 * weights_BHTS.tril()))
    assert scores["flagged_normalised"][0, 7] == 1
    assert not scores["flagged"].any()
