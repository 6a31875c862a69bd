"""Positional variance and head balance: closed forms and NumPy.

Shapes use B batch, T query positions, S key positions, H query heads, D head size, C model width.
"""

import math

import numpy as np
import pytest
import torch

BATCH, TOKENS, HEADS, SIZE, WIDTH = 6, 9, 3, 4, 10


def random_taps():
    generator = torch.Generator().manual_seed(1)
    heads = {tap: torch.randn(BATCH, TOKENS, HEADS, SIZE, generator=generator) for tap in ("mixed", "head_out")}
    return {**heads, "attn_out": torch.randn(BATCH, TOKENS, WIDTH, generator=generator)}


def test_positional_variance_matches_numpy(make_view, measured):
    taps = random_taps()
    arrays = measured("positional_variance", make_view(**taps))
    for tap, discrepancy in (("mixed", ""), ("head_out", "_head_out"), ("attn_out", "_attn_out")):
        x_BTC = taps[tap].double().flatten(2).numpy()
        curve_T = x_BTC.var(axis=0, ddof=1).mean(axis=-1)
        np.testing.assert_allclose(arrays[tap], curve_T, rtol=1e-9)
        np.testing.assert_allclose(arrays[f"discrepancy{discrepancy}"], curve_T[0] / curve_T[5:].mean(), rtol=1e-9)
    spatial_T = taps["mixed"].double().flatten(2).numpy().var(axis=-1, ddof=1).mean(axis=0)
    np.testing.assert_allclose(arrays["mixed_spatial"], spatial_T, rtol=1e-9)


def test_a_constant_vector_has_spatial_variance_only(make_view, measured):
    """The two variances answer different questions: a large mean vector is no variance over sequences."""
    taps = random_taps()
    taps["mixed"] = taps["mixed"][:1].expand(BATCH, -1, -1, -1)
    arrays = measured("positional_variance", make_view(**taps))
    np.testing.assert_allclose(arrays["mixed"], 0.0, atol=1e-12)
    assert (arrays["mixed_spatial"] > 0.1).all()


def test_a_large_mean_does_not_drown_the_variance(make_view, measured):
    taps = {tap: x.double() for tap, x in random_taps().items()}
    plain = measured("positional_variance", make_view(**taps))["mixed"]
    shifted = measured("positional_variance", make_view(**{tap: x + 1e4 for tap, x in taps.items()}))["mixed"]
    np.testing.assert_allclose(shifted, plain, rtol=1e-6)  # float64 keeps 16 digits, the squares of 1e4 take 8


def test_positional_variance_refuses_documents(make_view, measured, packed_BT):
    with pytest.raises(AssertionError, match="one document"):
        measured("positional_variance", make_view(document_BT=packed_BT, mixed=torch.zeros(2, 24, 1, 2)))


def test_head_balance_of_uniform_and_of_certain_heads(make_view, measured, causal_weights):
    weights_BHTS = torch.cat([causal_weights(kind, BATCH, 1, TOKENS) for kind in ("uniform", "first")], dim=1)
    arrays = measured("head_balance", make_view(weights_BHTS, mixed=torch.zeros(BATCH, TOKENS, 2, SIZE)))
    uniform = np.mean([math.log(t + 1) for t in range(1, TOKENS)])
    np.testing.assert_allclose(arrays["entropy"], [uniform, 0.0], rtol=1e-6)
    assert arrays["variance"].tolist() == [0.0, 0.0]


def test_head_balance_matches_a_loop(make_view, measured, causal_weights, packed_BT):
    weights_BHTS = causal_weights("random", 2, HEADS, 24, packed_BT)
    weights_BHTS[0, 0, 5] = 0.0
    mixed_BTHD = torch.randn(2, 24, HEADS, SIZE, generator=torch.Generator().manual_seed(2))
    view = make_view(weights_BHTS, packed_BT, mixed=mixed_BTHD)
    arrays = measured("head_balance", view)
    later = [(b, t) for b in range(2) for t in range(24) if view.position_BT[b, t] > 0]
    for head in range(HEADS):
        rows = [weights_BHTS[b, head, t].double().numpy() for b, t in later]
        rows = [row[row > 0] / row.sum() for row in rows if row.any()]
        np.testing.assert_allclose(arrays["entropy"][head], np.mean([-(p * np.log(p)).sum() for p in rows]), rtol=1e-6)
        outputs = np.array([mixed_BTHD[b, t, head].double().numpy() for b, t in later])
        np.testing.assert_allclose(arrays["variance"][head], outputs.var(axis=0, ddof=1).mean(), rtol=1e-9)
