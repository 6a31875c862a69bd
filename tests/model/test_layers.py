"""RMSNorm, RoPE and SwiGLU against their definitions.

Shapes use B batch, T positions, H heads, D head size, C model width, F feed-forward width.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sinkpretrain.config import ModelConfig
from sinkpretrain.model.layers import RMSNorm, RoPE, SwiGLU

CONFIG = ModelConfig(n_heads=2, d_model=16, d_ff=12, rope_theta=100.0)


def rotated(x_D, position):
    table = RoPE(CONFIG).table(torch.tensor([position]))
    return RoPE.rotate(x_D[None, None, None], table)[0, 0, 0]


def test_rope_turns_half_split_pairs():
    x_D = torch.arange(1.0, 9.0)
    expected_D = torch.empty(8)
    for pair in range(4):
        angle = torch.tensor(5 * 100.0 ** (-2 * pair / 8))
        first, second = x_D[pair], x_D[pair + 4]
        expected_D[pair] = first * angle.cos() - second * angle.sin()
        expected_D[pair + 4] = second * angle.cos() + first * angle.sin()
    assert_close(rotated(x_D, 5), expected_D)


def test_rope_products_depend_on_the_distance_alone():
    q_D, k_D = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    for distance in (0, 1, 7):
        products = torch.stack([rotated(q_D, p + distance) @ rotated(k_D, p) for p in (0, 3, 50, 200)])
        assert_close(products, products[:1].expand(4), rtol=0, atol=2e-5)  # the angle's own rounding at position 200
    assert (rotated(q_D, 9) @ rotated(k_D, 2) - rotated(q_D, 2) @ rotated(k_D, 9)).abs() > 0.05, "before is not after"


def test_rope_of_a_narrow_model_is_exact():
    """A model cast to bfloat16 keeps exact positions; only the result is rounded."""
    rope = RoPE(CONFIG).bfloat16()
    x_BTHD = torch.randn(1, 200, 2, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    out_BTHD = RoPE.rotate(x_BTHD, rope.table(torch.arange(200)))
    assert out_BTHD.dtype == torch.bfloat16
    expected_BTHD = RoPE.rotate(x_BTHD.float(), RoPE(CONFIG).table(torch.arange(200)))
    assert torch.equal(out_BTHD, expected_BTHD.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_norm(dtype):
    norm = RMSNorm(16, eps=1e-2).to(dtype)
    gain_C, x_BTC = torch.randn(16).to(dtype), torch.randn(2, 3, 16).to(dtype)
    norm.gain.data = gain_C
    wide_BTC = x_BTC.double()
    expected_BTC = wide_BTC / (wide_BTC.square().mean(dim=-1, keepdim=True) + 1e-2).sqrt() * gain_C.double()
    assert norm(x_BTC).dtype == dtype
    assert_close(norm(x_BTC), expected_BTC.to(dtype))


def test_rms_norm_of_nothing_and_of_giants_is_finite():
    norm = RMSNorm(4, eps=1e-5)
    x_BTC = torch.tensor([[[0.0] * 4, [1e18, 0, 0, 0]]], requires_grad=True)
    norm(x_BTC).sum().backward()
    assert norm(x_BTC).isfinite().all()
    assert x_BTC.grad.isfinite().all()
    assert norm(x_BTC)[0, 1, 0].item() == pytest.approx(2.0)


def test_swiglu():
    mlp = SwiGLU(CONFIG, layer=0)
    x_BTC = torch.randn(2, 3, 16)
    gate_BTF, up_BTF = x_BTC @ mlp.w_gate.weight.T, x_BTC @ mlp.w_up.weight.T
    assert_close(mlp(x_BTC), (gate_BTF * torch.sigmoid(gate_BTF) * up_BTF) @ mlp.w_down.weight.T)
    assert not torch.allclose(mlp(x_BTC), (F.silu(up_BTF) * gate_BTF) @ mlp.w_down.weight.T), "the gate is the gate"
