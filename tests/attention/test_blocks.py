"""The explicit definition in blocks of rows: the same values and gradients as at once, without a T x T tensor."""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.attention import base
from sinkpretrain.attention.base import Mask

TOKENS = 13


def values_and_gradients(module, document_BT, dtype):
    generator = torch.Generator().manual_seed(3)
    arguments = [
        torch.randn(2, TOKENS, count, 6, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for count in (4, 2, 2)
    ]
    mixed_BTHD = module.mix_explicit(*arguments, Mask(TOKENS, arguments[0].device, document_BT))
    direction_BTHD = torch.randn(mixed_BTHD.shape, generator=generator, dtype=torch.float64).to(dtype)
    gradients = torch.autograd.grad((mixed_BTHD * direction_BTHD).sum(), [*arguments, *module.parameters()])
    return [mixed_BTHD, *gradients]


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_blocks_equal_one_block(weights_entry, build_kind, packed, dtype, monkeypatch):
    module = build_kind("attention.weights", weights_entry).to(dtype)
    document_BT = (torch.arange(TOKENS) // 5).expand(2, -1) if packed else None
    at_once = values_and_gradients(module, document_BT, dtype)
    monkeypatch.setattr(base, "ROWS", 4)
    in_blocks = values_and_gradients(module, document_BT, dtype)
    for block, one in zip(in_blocks, at_once, strict=True):
        assert_close(block, one)


def test_training_keeps_no_weights(weights_entry, build_kind, monkeypatch):
    """What autograd keeps between forward and backward holds neither weights nor masks."""
    module = build_kind("attention.weights", weights_entry)
    monkeypatch.setattr(base, "ROWS", 4)
    q_BTHD, k_BTGD, v_BTGD = (torch.randn(1, TOKENS, count, 6, requires_grad=True) for count in (4, 2, 2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        module.mix_explicit(q_BTHD, k_BTGD, v_BTGD, Mask(TOKENS, q_BTHD.device, torch.zeros(1, TOKENS)))
    assert {shape[-1] for shape in kept} == {6}, f"more than slices of queries, keys and values is kept: {kept}"


def test_no_block_is_taller_than_rows(weights_entry, build_kind, monkeypatch):
    module = build_kind("attention.weights", weights_entry)
    monkeypatch.setattr(base, "ROWS", 4)
    seen = []
    define = module.weights
    monkeypatch.setattr(module, "weights", lambda s, *more: seen.append(tuple(s.shape[2:])) or define(s, *more))
    q_BTHD, k_BTGD, v_BTGD = (torch.randn(1, TOKENS, count, 6) for count in (4, 2, 2))
    mask = Mask(TOKENS, q_BTHD.device)
    expected = [(4, 4), (4, 8), (4, 12), (1, 13)]
    module.mix_explicit(q_BTHD, k_BTGD, v_BTGD, mask)
    assert seen == expected
    seen.clear()
    list(module.rows(q_BTHD, k_BTGD, mask))
    assert seen == expected
