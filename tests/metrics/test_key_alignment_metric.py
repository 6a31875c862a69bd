"""The first key against the queries: a known SVD, grouped heads, the share of positive products.

Shapes use B batch, T positions, H query heads, G key-value heads, D head size, C model width.
"""

import numpy as np
import pytest
import torch

HEADS, GROUPS, SIZE, WIDTH, TOKENS = 4, 2, 4, 6, 24


def orthonormal(rows, columns, seed):
    matrix = torch.randn(rows, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(matrix).Q[:, :columns]


def known_query_map():
    """W_Q [(H D), C] of singular values 4, 3, 2, 1 in each head, and their left singular vectors, [H, D, D]."""
    left_HDD = torch.stack([orthonormal(SIZE, SIZE, seed) for seed in range(HEADS)])
    right_HDC = torch.stack([orthonormal(WIDTH, SIZE, seed).T for seed in range(10, 10 + HEADS)])
    return (left_HDD * torch.tensor([4.0, 3.0, 2.0, 1.0]) @ right_HDC).flatten(0, 1), left_HDD


def random_qk(batch=2, tokens=TOKENS):
    generator = torch.Generator().manual_seed(7)
    shape = (batch, tokens)
    return (torch.randn(*shape, heads, SIZE, generator=generator).double() for heads in (HEADS, GROUPS))


def test_keys_along_and_across_the_principal_direction(make_view, measured):
    """Heads 0 and 1 share a key, 2 and 3 the other one; sign and length do not matter."""
    w_q, left_HDD = known_query_map()
    q_BTHD, k_BTGD = random_qk()
    for along, across in ((0, 1), (1, 0)):
        k_BTGD[:, 0, 0] = torch.tensor([[-30.0], [0.1]]) * left_HDD[along, :, 0]
        k_BTGD[:, 0, 1] = left_HDD[2 + across, :, 2]  # the third direction of its own head
        view = make_view(q=q_BTHD, k=k_BTGD, matrices={"w_q": w_q})
        alignment_H = measured("key_alignment", view)["alignment"]
        np.testing.assert_allclose(alignment_H[[along, 2 + across]], [1.0, 0.0], atol=1e-9)
        expected = abs(left_HDD[across, :, 0] @ left_HDD[along, :, 0]), abs(left_HDD[2 + along, :, 0] @ k_BTGD[0, 0, 1])
        np.testing.assert_allclose(alignment_H[[across, 2 + along]], expected, rtol=1e-9)


def test_alignment_is_a_mean_over_first_tokens(make_view, measured):
    w_q, left_HDD = known_query_map()
    q_BTHD, k_BTGD = random_qk(3)
    k_BTGD[:2, 0], k_BTGD[2, 0] = left_HDD[0, :, 0], left_HDD[0, :, 1]
    view = make_view(q=q_BTHD, k=k_BTGD, matrices={"w_q": w_q})
    np.testing.assert_allclose(measured("key_alignment", view)["alignment"][0], 2 / 3, rtol=1e-9)


def test_alignment_with_the_queries_themselves(make_view, measured):
    """They lie along one direction, in either sense; the query of the first token, large, does not count."""
    q_BTHD, k_BTGD = random_qk(2)
    direction_D, other_D = orthonormal(SIZE, 2, seed=3).T
    q_BTHD[:] = torch.tensor([1.0, -2.0] * (TOKENS // 2))[:, None, None] * direction_D
    q_BTHD[:, 0] = 1e3 * other_D
    k_BTGD[0, 0], k_BTGD[1, 0] = 5.0 * direction_D, 0.1 * (direction_D + other_D)
    view = make_view(q=q_BTHD, k=k_BTGD, matrices={"w_q": known_query_map()[0]})
    expected = np.sqrt((1.0 + 0.5) / 2)
    np.testing.assert_allclose(measured("key_alignment", view)["alignment_queries"], [expected] * HEADS, rtol=1e-9)


def test_the_mean_of_the_queries_takes_part(make_view, measured):
    """All share a large part along one direction and vary along another: the first is the principal one."""
    q_BTHD, k_BTGD = random_qk(2)
    shared_D, varied_D = orthonormal(SIZE, 2, seed=3).T
    q_BTHD[:] = 5.0 * shared_D + torch.tensor([1.0, -1.0] * (TOKENS // 2))[:, None, None] * varied_D
    k_BTGD[:, 0] = shared_D
    view = make_view(q=q_BTHD, k=k_BTGD, matrices={"w_q": known_query_map()[0]})
    assert (measured("key_alignment", view)["alignment_queries"] > 0.99).all()


def test_positive_is_the_share_of_later_queries(make_view, measured):
    """Of four later queries: three, none at zero, all, one; the first query has the other sign."""
    q_BTHD, k_BTGD = random_qk(1, tokens=5)
    k_BTGD[:, 0] = torch.eye(SIZE)[:GROUPS]  # the key of heads 0 and 1, then of heads 2 and 3
    signs_TH = torch.tensor([[-1, 1, -1, 1], [1, 0, 2, -3], [1, 0, 2, -3], [0.1, 0, 2, 3], [-9, 0, 2, -3]])
    for head in range(HEADS):
        q_BTHD[0, :, head, head // 2] = signs_TH[:, head].double()
        q_BTHD[0, :, head, 1 - head // 2] = -signs_TH[:, head].double()  # what the other group's key would see
    view = make_view(q=q_BTHD, k=k_BTGD, matrices={"w_q": known_query_map()[0]})
    assert measured("key_alignment", view)["positive"].tolist() == [0.75, 0.0, 1.0, 0.25]


def test_documents_match_numpy(make_view, measured, packed_BT, documents):
    """Each query meets the first key of its own document. Width equals head size: W^T W would go unnoticed."""
    q_BTHD, k_BTGD = random_qk()
    w_q = torch.randn(HEADS * SIZE, SIZE, generator=torch.Generator().manual_seed(2)).double()
    arrays = measured("key_alignment", make_view(document_BT=packed_BT, q=q_BTHD, k=k_BTGD, matrices={"w_q": w_q}))
    for head in range(HEADS):
        block_DC = w_q.numpy()[head * SIZE : (head + 1) * SIZE]
        u_D = np.linalg.svd(block_DC)[0][:, 0]
        own = [
            (q_BTHD[window, place, head].numpy(), k_BTGD[window, place, head // 2].numpy()[0])
            for window, place in documents(packed_BT)
        ]
        unit_ND = np.array([key_D / np.linalg.norm(key_D) for _, key_D in own])
        later_ND = np.concatenate([q_TD[1:] for q_TD, _ in own])
        v_D = np.linalg.svd(later_ND, full_matrices=False)[2][0]
        positive = np.concatenate([q_TD[1:] @ key_D > 0 for q_TD, key_D in own])
        np.testing.assert_allclose(arrays["alignment"][head], abs(unit_ND @ u_D).mean(), rtol=1e-9)
        np.testing.assert_allclose(arrays["alignment_queries"][head], np.sqrt(((unit_ND @ v_D) ** 2).mean()), rtol=1e-9)
        np.testing.assert_allclose(arrays["positive"][head], positive.mean(), rtol=1e-12)


@pytest.mark.parametrize("diverged", ["q", "k", "w_q"])
def test_nan_stays_nan_and_stops_nothing(make_view, measured, diverged):
    q_BTHD, k_BTGD = random_qk()
    given = {"q": q_BTHD, "k": k_BTGD, "w_q": known_query_map()[0]}
    given[diverged][:] = torch.nan
    arrays = measured("key_alignment", make_view(q=given["q"], k=given["k"], matrices={"w_q": given["w_q"]}))
    unknown = {"q": {"alignment_queries", "positive"}, "k": set(arrays), "w_q": {"alignment"}}[diverged]
    assert {name for name in arrays if np.isnan(arrays[name]).all()} == unknown
    assert {name for name in arrays if np.isnan(arrays[name]).any()} == unknown
