"""First-token attention: closed forms, and a loop over documents.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("tokens", [2, 7, 64])
def test_uniform_weights_give_the_baseline(make_view, measured, causal_weights, tokens):
    arrays = measured("first_token_attention", make_view(causal_weights("uniform", 2, 3, tokens)))
    harmonic = sum(1 / n for n in range(1, tokens + 1))
    np.testing.assert_allclose(arrays["uniform"], (harmonic - 1) / (tokens - 1), rtol=1e-12)
    np.testing.assert_allclose(arrays["raw"], np.full(3, arrays["uniform"]), rtol=1e-6)
    np.testing.assert_allclose(arrays["mass"], np.ones(3), rtol=1e-6)


def test_all_on_first_gives_one(make_view, measured, causal_weights):
    arrays = measured("first_token_attention", make_view(0.25 * causal_weights("first", 2, 3, 7)))
    assert arrays["raw"].tolist() == [0.25] * 3
    assert arrays["normalised"].tolist() == [1.0] * 3


def test_query_zero_does_not_count(make_view, measured):
    weights_BHTS = torch.eye(6)[None, None]
    assert measured("first_token_attention", make_view(weights_BHTS))["raw"].tolist() == [0.0]


def test_documents_match_a_loop(make_view, measured, causal_weights, packed_BT, documents):
    weights_BHTS = causal_weights("random", 2, 3, 24, packed_BT)
    raw, normalised, uniform = [], [], []
    for window, place in documents(packed_BT):
        own_HTS = weights_BHTS[window, :, place, place].double().numpy()
        for t in range(1, own_HTS.shape[1]):
            raw.append(own_HTS[:, t, 0])
            normalised.append(own_HTS[:, t, 0] / own_HTS[:, t].sum(axis=-1))
            uniform.append(1 / (t + 1))
    arrays = measured("first_token_attention", make_view(weights_BHTS, packed_BT))
    np.testing.assert_allclose(arrays["raw"], np.mean(raw, axis=0), rtol=1e-6)
    np.testing.assert_allclose(arrays["normalised"], np.mean(normalised, axis=0), rtol=1e-6)
    np.testing.assert_allclose(arrays["uniform"], np.mean(uniform), rtol=1e-12)


def test_rows_without_mass_count_as_such(make_view, measured, causal_weights):
    weights_BHTS = causal_weights("first", 1, 2, 5)
    weights_BHTS[0, 1, 3:] = 0.0
    arrays = measured("first_token_attention", make_view(weights_BHTS))
    assert arrays["raw"].tolist() == [1.0, 0.5]
    assert arrays["normalised"].tolist() == [1.0, 1.0]
    assert arrays["massless"].tolist() == [0.0, 0.5]
    weights_BHTS[0, 1] = 0.0
    assert np.isnan(measured("first_token_attention", make_view(weights_BHTS))["normalised"]).tolist() == [False, True]
