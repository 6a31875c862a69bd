"""Dominance ratio, representation norm and massive activation: closed forms and loops over documents.

Shapes use B batch, T positions, C model width.
"""

import numpy as np
import pytest
import torch

TOKENS, WIDTH = 24, 8
RESID_BTC = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def spiked(height):
    """All ones but for one channel of the first token."""
    resid_BTC = torch.ones(2, TOKENS, WIDTH)
    resid_BTC[:, 0, 3] = -height
    return resid_BTC


def test_dominance_ratio_of_one_large_channel(make_view, measured):
    arrays = measured("dominance_ratio", make_view(resid_out=spiked(93.0)))
    np.testing.assert_allclose(arrays["first"], 93 / (100 / WIDTH), rtol=1e-6)
    np.testing.assert_allclose(arrays["others"], 1.0, rtol=1e-6)


def test_representation_norm_of_one_large_channel(make_view, measured):
    arrays = measured("representation_norm", make_view(resid_in=spiked(3.0)))
    np.testing.assert_allclose(arrays["first"], 4.0, rtol=1e-6)
    np.testing.assert_allclose(arrays["others"], np.sqrt(WIDTH), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "tap", "value"),
    [
        ("dominance_ratio", "resid_out", lambda h_C: abs(h_C).max() / abs(h_C).mean()),
        ("representation_norm", "resid_in", lambda h_C: np.sqrt((h_C**2).sum())),
    ],
)
def test_first_and_others_match_a_loop(make_view, measured, packed_BT, documents, name, tap, value):
    first, others = [], []
    for window, place in documents(packed_BT):
        values = [value(h_C) for h_C in RESID_BTC[window, place].double().numpy()]
        first.append(values[0])
        others += values[1:]
    arrays = measured(name, make_view(document_BT=packed_BT, **{tap: RESID_BTC}))
    np.testing.assert_allclose(arrays["first"], np.mean(first), rtol=1e-6)
    np.testing.assert_allclose(arrays["others"], np.mean(others), rtol=1e-6)


def test_massive_activation_is_a_mean_over_sequences(make_view, measured):
    resid_BTC = spiked(10.0)
    resid_BTC[1, 0, 3], resid_BTC[1, 7, 5] = 1.0, -30.0
    arrays = measured("massive_activation", make_view(resid_out=resid_BTC))
    np.testing.assert_allclose(arrays["ratio"], (10 + 30) / 2, rtol=1e-6)
    assert arrays["first"] == 0.5


def test_massive_activation_matches_a_loop(make_view, measured, packed_BT, documents):
    ratios, at_first = [], []
    for window, place in documents(packed_BT):
        size_TC = abs(RESID_BTC[window, place].double().numpy())
        ratios.append(size_TC.max() / np.sort(size_TC, axis=None)[(size_TC.size - 1) // 2])
        at_first.append(size_TC.max() == size_TC[0].max())
    arrays = measured("massive_activation", make_view(document_BT=packed_BT, resid_out=RESID_BTC))
    np.testing.assert_allclose(arrays["ratio"], np.mean(ratios), rtol=1e-6)
    np.testing.assert_allclose(arrays["first"], np.mean(at_first), rtol=1e-12)
