"""Kendall's tau of W_O's rows with the first token's variance: perfect orders, and tau-b over all pairs.

Shapes use B batch, T positions, H query heads, D head size, N dimensions of all heads together, C output channels.
"""

import numpy as np
import pytest
import torch

from sinkpretrain.metrics.output_alignment import OutputAlignment

BATCH, TOKENS, HEADS, SIZE = 16, 5, 3, 4
N = HEADS * SIZE


def tau_b(x_N, y_N):
    """(concordant - discordant) / sqrt(pairs untied in x * pairs untied in y), pair by pair."""
    agreement, untied_x, untied_y = 0.0, 0, 0
    for i in range(len(x_N)):
        for j in range(i):
            dx, dy = np.sign(x_N[i] - x_N[j]), np.sign(y_N[i] - y_N[j])
            agreement, untied_x, untied_y = agreement + dx * dy, untied_x + abs(dx), untied_y + abs(dy)
    return agreement / np.sqrt(untied_x * untied_y)


def mixed():
    """Dimensions of shuffled scales at position 0, in an other order later, on means in a third order."""
    generator = torch.Generator().manual_seed(1)
    scales = [torch.randperm(N, generator=generator) + 1.0 for _ in range(3)]
    mixed_BTN = torch.randn(BATCH, TOKENS, N, generator=generator)
    mixed_BTN[:, 0] = mixed_BTN[:, 0] * scales[0] + 40 * scales[1]
    mixed_BTN[:, 1:] *= 100 * scales[2]
    return mixed_BTN.unflatten(2, (HEADS, SIZE))


def variance(mixed_BTHD):
    return mixed_BTHD[:, 0].flatten(1).double().numpy().var(axis=0, ddof=1)


def test_it_runs_on_random_text():
    assert OutputAlignment.inputs.text == "random"


def test_rows_in_the_order_of_the_variances_give_one_and_minus_one(make_view, measured):
    """Whatever the signs of the weights and however unequal their steps."""
    rank_N = torch.tensor(variance(mixed()).argsort().argsort())
    sign_N = torch.tensor([1.0, -1.0]).repeat(N // 2)
    w_o_CN = torch.stack([sign_N * 2.0**rank_N, -sign_N * 2.0**-rank_N])
    arrays = measured("output_alignment", make_view(mixed=mixed(), matrices={"w_o": w_o_CN}))
    np.testing.assert_allclose(arrays["tau"], [1.0, -1.0], rtol=1e-12)
    np.testing.assert_allclose(arrays["mean"], 0.0, atol=1e-12)


def test_matches_all_pairs_row_by_row(make_view, measured):
    """Rows of W_O are output channels: with as many of them as dimensions, its transpose would go unnoticed."""
    w_o_CN = torch.randint(-3, 4, (N, N), generator=torch.Generator().manual_seed(2)).float()  # with ties
    mixed_BTHD = mixed()
    mixed_BTHD[:, :, 1] = mixed_BTHD[:, :, 0]  # heads that share a key-value head mix the same first value
    arrays = measured("output_alignment", make_view(mixed=mixed_BTHD, matrices={"w_o": w_o_CN}))
    expected_C = [tau_b(row_N, variance(mixed_BTHD)) for row_N in w_o_CN.abs().numpy()]
    np.testing.assert_allclose(arrays["tau"], expected_C, rtol=1e-9)
    np.testing.assert_allclose(arrays["mean"], np.mean(expected_C), rtol=1e-9)


def test_batches_add_up_before_they_are_ranked(make_view, measured):
    """Within each batch nothing varies: all variance is between the two."""
    mixed_BTHD = mixed()[:1]
    batches = [mixed_BTHD, mixed_BTHD + torch.arange(1.0, N + 1).view(HEADS, SIZE)]
    matrices = {"w_o": torch.arange(1.0, N + 1)[None]}
    views = [make_view(mixed=part.expand(4, -1, -1, -1), matrices=matrices) for part in batches]
    np.testing.assert_allclose(measured("output_alignment", *views)["tau"], [1.0], rtol=1e-12)


def test_a_row_of_equal_weights_has_no_order(make_view, measured):
    w_o_CN = torch.stack([torch.full((N,), 0.5), torch.arange(float(N))])
    arrays = measured("output_alignment", make_view(mixed=mixed(), matrices={"w_o": w_o_CN}))
    assert np.isnan(arrays["tau"]).tolist() == [True, False]
    assert np.isnan(arrays["mean"])


def test_documents_are_refused(make_view, measured, packed_BT):
    with pytest.raises(AssertionError, match="one document"):
        measured("output_alignment", make_view(document_BT=packed_BT, mixed=torch.zeros(2, 24, 1, 2)))
