"""The direction of normed tokens: one-channel tokens, gains, the mean over all pairs.

Shapes use B batch, T positions, N tokens, C model width.
"""

import numpy as np
import torch

TOKENS, WIDTH = 24, 8
PLAIN = {"attention_norm": torch.ones(WIDTH)}


def random_tokens(batch=2):
    return torch.randn(batch, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def test_one_channel_tokens_all_become_one_vector(make_view, measured):
    """Whatever their lengths; those of random directions do not."""
    resid_BTC = random_tokens(4)
    resid_BTC[:, 0] = torch.tensor([3.0, 50.0, 1e4, 0.7])[:, None] * torch.eye(WIDTH)[2]
    arrays = measured("norm_direction", make_view(resid_in=resid_BTC, matrices=PLAIN))
    np.testing.assert_allclose([arrays["top_share_first"], arrays["cosine_first"]], [1.0, 1.0], rtol=1e-6)
    assert arrays["top_share_others"] < 0.7
    assert abs(arrays["cosine_others"]) < 0.1


def test_opposite_and_orthogonal_tokens(make_view, measured):
    resid_BTC = torch.zeros(2, 4, WIDTH)
    resid_BTC[:, 0, 2] = torch.tensor([5.0, -1.0])
    resid_BTC[:, 1:] = torch.eye(WIDTH)[:6].view(2, 3, WIDTH)
    arrays = measured("norm_direction", make_view(resid_in=resid_BTC, matrices=PLAIN))
    np.testing.assert_allclose(arrays["cosine_first"], -1.0, rtol=1e-6)
    np.testing.assert_allclose(arrays["cosine_others"], 0.0, atol=1e-6)


def test_the_gain_takes_part(make_view, measured):
    """Two channels of 3 and 1 come out as 3 and 2, or with a gain of 0 as one channel."""
    resid_BTC = torch.zeros(2, 3, WIDTH)
    resid_BTC[..., 0], resid_BTC[..., 5] = 3.0, 1.0
    for gain, share in ((2.0, 9 / 13), (0.0, 1.0), (-6.0, 36 / 45)):
        gain_C = torch.ones(WIDTH)
        gain_C[5] = gain
        arrays = measured("norm_direction", make_view(resid_in=resid_BTC, matrices={"attention_norm": gain_C}))
        np.testing.assert_allclose([arrays["top_share_first"], arrays["top_share_others"]], [share] * 2, rtol=1e-6)


def test_documents_match_a_loop_over_all_pairs(make_view, measured, packed_BT, documents):
    resid_BTC, gain_C = random_tokens() + 0.5, torch.linspace(0.5, 2.0, WIDTH)
    tokens = {"first": [], "others": []}
    for window, place in documents(packed_BT):
        normed_TC = resid_BTC[window, place].double().numpy() * gain_C.double().numpy()
        unit_TC = normed_TC / np.linalg.norm(normed_TC, axis=-1, keepdims=True)
        tokens["first"].append(unit_TC[0])
        tokens["others"] += list(unit_TC[1:])
    view = make_view(document_BT=packed_BT, resid_in=resid_BTC, matrices={"attention_norm": gain_C})
    arrays = measured("norm_direction", view)
    for name, unit_NC in tokens.items():
        cosines = [a_C @ b_C for i, a_C in enumerate(unit_NC) for b_C in unit_NC[:i]]
        np.testing.assert_allclose(arrays[f"cosine_{name}"], np.mean(cosines), rtol=1e-6)
        np.testing.assert_allclose(arrays[f"top_share_{name}"], np.mean(np.square(unit_NC).max(axis=-1)), rtol=1e-6)


def test_one_sequence_has_no_pair(make_view, measured):
    arrays = measured("norm_direction", make_view(resid_in=random_tokens(1), matrices=PLAIN))
    assert np.isnan(arrays["cosine_first"])
    assert np.isfinite([arrays["cosine_others"], arrays["top_share_first"]]).all()
