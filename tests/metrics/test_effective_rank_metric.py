"""Effective rank: known spectra, a singular value decomposition, and a token that float32 could not bear.

Shapes use B batch, T positions, N tokens, C model width.
"""

import numpy as np
import pytest
import torch

from sinkpretrain.metrics.effective_rank import effective_rank


def reference(resid_NC):
    sigma = np.linalg.svd(resid_NC, compute_uv=False)
    p = sigma / sigma.sum()
    p = p[p > 0]
    return np.exp(-(p * np.log(p)).sum())


def test_equal_singular_values_give_their_number(make_view, measured):
    resid_BTC = torch.eye(6).repeat(1, 3, 1)  # each direction three times
    np.testing.assert_allclose(measured("effective_rank", make_view(resid_out=resid_BTC))["all"], 6.0, rtol=1e-12)


def test_known_spectrum():
    """Singular values 2, 1, 1: p = 1/2, 1/4, 1/4, entropy 1.5 ln 2."""
    np.testing.assert_allclose(effective_rank(np.diag([4.0, 1.0, 1.0])), 2**1.5, rtol=1e-12)


def test_one_direction_gives_one_and_nothing_gives_zero(make_view, measured):
    line_BTC = torch.arange(1.0, 9.0)[None, :, None] * torch.tensor([1.0, -2.0, 0.5])
    np.testing.assert_allclose(measured("effective_rank", make_view(resid_out=line_BTC))["all"], 1.0, atol=1e-6)
    assert measured("effective_rank", make_view(resid_out=torch.zeros(1, 4, 3)))["all"] == 0.0
    assert np.isnan(measured("effective_rank", make_view(resid_out=torch.full((1, 4, 3), torch.inf)))["all"])


@pytest.mark.parametrize("has_documents", [False, True])
def test_matches_singular_values(make_view, measured, packed_BT, has_documents):
    resid_BTC = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(1)) + 3.0
    document_BT = packed_BT if has_documents else None
    view = make_view(resid_out=resid_BTC, document_BT=document_BT)
    arrays = measured("effective_rank", view)
    resid_NC = resid_BTC.double().flatten(0, 1).numpy()
    np.testing.assert_allclose(arrays["all"], reference(resid_NC), rtol=1e-9)
    np.testing.assert_allclose(arrays["centred"], reference(resid_NC - resid_NC.mean(axis=0)), rtol=1e-9)
    others_NC = resid_NC[view.position_BT.flatten().numpy() > 0]
    assert len(others_NC) == 48 - (5 if has_documents else 2)
    np.testing.assert_allclose(arrays["without_first"], reference(others_NC), rtol=1e-9)
    assert arrays["tokens"] == 48


def test_one_token_of_1e4_times_the_norm(make_view, measured):
    """A Gram matrix in float32 is off in the third digit here, ours in the ninth at most."""
    resid_BTC = torch.randn(4, 128, 64, generator=torch.Generator().manual_seed(1))
    resid_BTC[:, 0] *= 1e4
    arrays = measured("effective_rank", make_view(resid_out=resid_BTC))
    resid_NC = resid_BTC.double().flatten(0, 1).numpy()
    np.testing.assert_allclose(arrays["all"], reference(resid_NC), rtol=1e-8)
    np.testing.assert_allclose(arrays["without_first"], reference(resid_BTC[:, 1:].double().flatten(0, 1)), rtol=1e-8)
    narrow_NC = resid_BTC.flatten(0, 1)
    narrow = effective_rank((narrow_NC.T @ narrow_NC).double().numpy())
    assert abs(narrow / reference(resid_NC) - 1) > 1e-3
