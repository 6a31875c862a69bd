"""The fused path agrees with the definition, values and gradients, and runs exactly where it says it does."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sinkpretrain.attention.base import AttentionWeights, Mask

TOKENS = 11


@pytest.fixture
def sdpa_calls(monkeypatch):
    """The keyword arguments of every call of PyTorch's fused attention."""
    calls, sdpa = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *given, **named: calls.append(named) or sdpa(*given, **named)
    )
    return calls


def inputs(heads=4, groups=2, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return [
        (scale * torch.randn(2, TOKENS, count, 6, generator=generator)).to(dtype).requires_grad_()
        for count in (heads, groups, groups)
    ]


def values_and_gradients(module, mask, arguments):
    mixed_BTHD = module.mix(*arguments, mask)
    direction_BTHD = torch.randn(mixed_BTHD.shape, generator=torch.Generator().manual_seed(6)).to(mixed_BTHD.dtype)
    used = [*arguments, *module.parameters()]
    return [mixed_BTHD, *torch.autograd.grad((mixed_BTHD * direction_BTHD).sum(), used)]


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (4, 4), (6, 1)])
@pytest.mark.parametrize(
    ("scale", "dtype"), [(1.0, torch.float32), (4.0, torch.float64)], ids=["float32", "sharp rows in float64"]
)
def test_fused_equals_explicit(weights_entry, build_kind, packed, heads, groups, scale, dtype):
    module = build_kind("attention.weights", weights_entry, n_heads=heads, kv_heads=groups).to(dtype)
    mask = Mask(TOKENS, torch.device("cpu"), (torch.arange(TOKENS) // 4).expand(2, -1) if packed else None)
    arguments = inputs(heads, groups, scale, dtype)
    fused = values_and_gradients(module, mask, arguments)
    module.uses_fused = False
    explicit = values_and_gradients(module, mask, arguments)
    for one, other in zip(fused, explicit, strict=True):
        assert_close(one, other)


def test_fused_runs_where_it_exists(weights_entry, build_kind, sdpa_calls):
    """A kind with a fused path calls SDPA and never its own definition; a kind without one does the reverse."""
    module = build_kind("attention.weights", weights_entry)
    has_fused = type(module).fused is not AttentionWeights.fused
    assert has_fused == (weights_entry["name"] in ("softmax", "softmax_off_by_one", "kv_bias"))
    mask = Mask(TOKENS, torch.device("cpu"))
    arguments = inputs()
    before_BTHD = module.mix(*arguments, mask)
    assert len(sdpa_calls) == has_fused
    if has_fused:
        assert sdpa_calls[0]["is_causal"]

    define = module.weights
    module.weights = lambda *given: 2 * define(*given)
    assert ((module.mix(*arguments, mask) - before_BTHD).abs().max() > 0.1) == (not has_fused)
    module.uses_fused = False
    sdpa_calls.clear()
    assert (module.mix(*arguments, mask) - before_BTHD).abs().max() > 0.1
    assert not sdpa_calls


def test_documents_run_fused_for_softmax_alone(weights_entry, build_kind, sdpa_calls):
    module = build_kind("attention.weights", weights_entry)
    mask = Mask(TOKENS, torch.device("cpu"), (torch.arange(TOKENS) // 4).expand(2, -1))
    module.mix(*inputs(), mask)
    assert len(sdpa_calls) == (weights_entry["name"] == "softmax")
    if sdpa_calls:
        assert sdpa_calls[0]["attn_mask"] is mask.dense
        assert not sdpa_calls[0]["is_causal"]


@pytest.mark.parametrize("uses_fused", [True, False], ids=["fused", "explicit"])
def test_model_uses_the_path_it_is_told_to(build_model, sdpa_calls, uses_fused):
    model = build_model({"weights": {"name": "softmax"}})
    for block in model.blocks:
        block.attention.weights.uses_fused = uses_fused
    model(torch.zeros(1, TOKENS, dtype=torch.long))
    assert len(sdpa_calls) == (len(model.blocks) if uses_fused else 0)
