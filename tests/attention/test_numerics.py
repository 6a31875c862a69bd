"""Gradients by finite differences, extreme scores, empty rows, and float32 weights under bfloat16 autocast."""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.attention import base
from sinkpretrain.attention.base import Mask

TOKENS = 5


def inputs(dtype, tokens=TOKENS, scale=1.0):
    generator = torch.Generator().manual_seed(7)
    return [
        (scale * torch.randn(2, tokens, count, 6, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for count in (4, 2, 2)
    ]


@pytest.mark.parametrize("rows", [256, 2], ids=["one block", "blocks"])
def test_gradient_is_the_derivative(weights_entry, build_kind, rows, monkeypatch):
    monkeypatch.setattr(base, "ROWS", rows)
    module = build_kind("attention.weights", weights_entry).double()
    mask = Mask(TOKENS, torch.device("cpu"))
    arguments = [x[:1].detach().requires_grad_() for x in inputs(torch.float64)]
    parameters = tuple(module.parameters())
    assert torch.autograd.gradcheck(
        lambda q, k, v, *_: module.mix_explicit(q, k, v, mask), (*arguments, *parameters), fast_mode=True
    )


@pytest.mark.parametrize("magnitude", [30.0, 1e4])
def test_extreme_scores(weights_entry, build_kind, magnitude):
    """Scores of both signs and of one sign give weights within their bounds and finite gradients."""
    module = build_kind("attention.weights", weights_entry)
    visible = Mask(TOKENS, torch.device("cpu")).visible(0, TOKENS)
    q_BRHD = inputs(torch.float32)[0]
    signs = torch.where(torch.rand(1, 4, TOKENS, TOKENS, generator=torch.Generator().manual_seed(8)) < 0.5, -1.0, 1.0)
    for sign in (signs, torch.ones_like(signs), -torch.ones_like(signs)):
        scores_BHRS = (magnitude * sign).requires_grad_()
        weights_BHRS = module.weights(scores_BHRS, visible, q_BRHD)
        assert weights_BHRS.isfinite().all()
        assert ((weights_BHRS >= 0) & (weights_BHRS <= 1)).all()
        if module.rows_sum_to_one:
            assert_close(weights_BHRS.sum(dim=-1), torch.ones(weights_BHRS.shape[0], 4, TOKENS))
        used = [scores_BHRS, *module.parameters()]
        gradients = torch.autograd.grad(weights_BHRS.square().sum(), used, allow_unused=True, materialize_grads=True)
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("uses_fused", [True, False], ids=["fused", "explicit"])
def test_extreme_queries_and_keys(weights_entry, build_kind, uses_fused):
    module = build_kind("attention.weights", weights_entry)
    module.uses_fused = uses_fused
    arguments = inputs(torch.float32, scale=100.0)
    mixed_BTHD = module.mix(*arguments, Mask(TOKENS, torch.device("cpu")))
    gradients = torch.autograd.grad(mixed_BTHD.sum(), [*arguments, *module.parameters()])
    assert all(x.isfinite().all() for x in (mixed_BTHD, *gradients))


def test_rows_without_mass(weights_entry, build_kind):
    """Where every score is very negative a row is empty, unless its kind makes rows sum to one."""
    module = build_kind("attention.weights", weights_entry)
    visible = Mask(TOKENS, torch.device("cpu")).visible(0, TOKENS)
    mass_BHR = module.weights(torch.full((1, 4, TOKENS, TOKENS), -1e4), visible, inputs(torch.float32)[0]).sum(dim=-1)
    assert_close(mass_BHR, torch.full_like(mass_BHR, 1.0 if module.rows_sum_to_one else 0.0))


@pytest.mark.parametrize("rows", [256, 4], ids=["one block", "blocks"])
def test_weights_stay_float32_under_autocast(weights_entry, build_kind, rows, monkeypatch):
    """Rounding the scores to bfloat16 would move weights by parts in a hundred."""
    monkeypatch.setattr(base, "ROWS", rows)
    module = build_kind("attention.weights", weights_entry)
    narrow = [x.detach() for x in inputs(torch.bfloat16, tokens=9, scale=3.0)]
    wide = [x.float() for x in narrow]
    mask = Mask(9, torch.device("cpu"))
    seen = []
    define = module.weights
    monkeypatch.setattr(
        module, "weights", lambda scores, visible, q: seen.append((scores.dtype, q.dtype)) or define(scores, visible, q)
    )
    expected_rows = [weights_BHRS for _, weights_BHRS in module.rows(*wide[:2], mask)]
    expected_BTHD = module.mix_explicit(*wide, mask)
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow_rows = [weights_BHRS for _, weights_BHRS in module.rows(*narrow[:2], mask)]
        mixed_BTHD = module.mix_explicit(*narrow, mask)
    assert set(seen) == {(torch.float32, torch.float32)}
    for row, expected in zip(narrow_rows, expected_rows, strict=True):
        assert row.dtype == torch.float32
        assert_close(row, expected)
    assert mixed_BTHD.dtype == torch.bfloat16
    assert_close(mixed_BTHD, expected_BTHD.bfloat16())
