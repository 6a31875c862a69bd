"""Attention maps: closed forms, rows without mass, and a loop over documents.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

import numpy as np
import torch

from sinkpretrain.metrics.attention_map import AttentionMap

TOKENS = 24


def test_it_maps_the_first_64_tokens_of_held_out_text():
    assert (AttentionMap.inputs.text, AttentionMap.inputs.tokens) == ("held_out", 64)


def test_uniform_rows_hold_one_over_their_length(make_view, measured, causal_weights):
    arrays = measured("attention_map", make_view(causal_weights("uniform", 2, 3, TOKENS)))
    expected_TS = np.tril(np.ones((TOKENS, TOKENS))) / np.arange(1, TOKENS + 1)[:, None]
    for name in ("raw", "normalised"):
        np.testing.assert_allclose(arrays[name], expected_TS, rtol=1e-6)


def test_rows_are_queries_and_columns_are_keys(make_view, measured, causal_weights):
    arrays = measured("attention_map", make_view(0.25 * causal_weights("first", 2, 3, TOKENS)))
    assert (arrays["raw"][:, 0] == 0.25).all()
    assert not arrays["raw"][:, 1:].any()
    assert (arrays["normalised"][:, 0] == 1.0).all()


def test_it_is_the_mean_over_sequences_and_heads(make_view, measured, causal_weights):
    weights_BHTS = causal_weights("random", 3, 2, TOKENS)
    arrays = measured("attention_map", make_view(weights_BHTS))
    raw_BHTS = weights_BHTS.double().numpy()
    np.testing.assert_allclose(arrays["raw"], raw_BHTS.mean(axis=(0, 1)), rtol=1e-6)
    normalised_BHTS = raw_BHTS / raw_BHTS.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(arrays["normalised"], normalised_BHTS.mean(axis=(0, 1)), rtol=1e-6)


def test_rows_without_mass_are_left_out_of_normalised_means_only(make_view, measured, causal_weights):
    weights_BHTS = 0.5 * causal_weights("first", 1, 2, TOKENS)
    weights_BHTS[0, 1, 7] = 0.0
    weights_BHTS[0, :, 9] = 0.0
    arrays = measured("attention_map", make_view(weights_BHTS))
    assert arrays["raw"][[6, 7, 9], 0].tolist() == [0.5, 0.25, 0.0]
    assert arrays["normalised"][[6, 7], 0].tolist() == [1.0, 1.0]
    assert np.isnan(arrays["normalised"][9]).all()
    assert not arrays["normalised"][7, 1:].any()


def test_documents_match_a_loop(make_view, measured, causal_weights, packed_BT, documents):
    weights_BHTS = causal_weights("random", 2, 3, TOKENS, packed_BT)
    weights_BHTS[0, 1, 21] = 0.0  # row 1 of the second document
    raw, normalised = ([[[] for _ in range(TOKENS)] for _ in range(TOKENS)] for _ in range(2))
    for window, place in documents(packed_BT):
        for own_TS in weights_BHTS[window, :, place, place].double().numpy():
            for t, row in enumerate(own_TS):
                for s in range(TOKENS):
                    raw[t][s].append(row[s] if s < len(row) else 0.0)
                    if row.any():
                        normalised[t][s].append(row[s] / row.sum() if s < len(row) else 0.0)
    arrays = measured("attention_map", make_view(weights_BHTS, packed_BT))
    for name, expected in (("raw", raw), ("normalised", normalised)):
        expected_TS = [[np.mean(of) if of else np.nan for of in row] for row in expected]
        np.testing.assert_allclose(arrays[name], expected_TS, rtol=1e-6)
    assert np.isnan(arrays["raw"]).any(axis=1).tolist() == [False] * 20 + [True] * 4  # the longest has 20 tokens


def test_nan_weights_stay_nan(make_view, measured, causal_weights):
    weights_BHTS = causal_weights("uniform", 1, 2, TOKENS)
    weights_BHTS[0, 1, 3] = torch.nan
    arrays = measured("attention_map", make_view(weights_BHTS))
    for name in ("raw", "normalised"):
        assert np.isnan(arrays[name]).all(axis=1).tolist() == [t == 3 for t in range(TOKENS)]
