"""Each output transform against its definition, written here again with NumPy loops in float64.

Shapes use B batch, T query positions, H query heads, D head size, C model width.
"""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

HEADS, SIZE, WIDTH, EPS = 4, 6, 10, 1e-5


def head_rmsnorm(z_D, x_C, head, gain, options):
    rms = math.sqrt(sum(float(value) ** 2 for value in z_D) / SIZE + EPS)
    gains = {"none": lambda d: 1.0, "shared": lambda d: gain[d], "per_head": lambda d: gain[head][d]}[options["gain"]]
    return [z_D[d] / rms * gains(d) for d in range(SIZE)]


def gate(z_D, x_C, head, weight, options):
    row = (lambda d: head) if options["granularity"] == "head" else (lambda d: head * SIZE + d)
    return [z_D[d] / (1 + math.exp(-sum(weight[row(d)][c] * x_C[c] for c in range(WIDTH)))) for d in range(SIZE)]


DEFINITION = {"head_rmsnorm": head_rmsnorm, "gate": gate}


def inputs(tokens=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(9)
    mixed_BTHD = torch.randn(2, tokens, HEADS, SIZE, generator=generator, dtype=torch.float64)
    x_BTC = torch.randn(2, tokens, WIDTH, generator=generator, dtype=torch.float64)
    return mixed_BTHD.to(dtype).requires_grad_(), x_BTC.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_definition(output_entry, build_kind, dtype):
    module = build_kind("attention.output", output_entry).to(dtype)
    mixed_BTHD, x_BTC = inputs(dtype=dtype)
    z, x = mixed_BTHD.detach().double().numpy(), x_BTC.detach().double().numpy()
    parameter = next((parameter.detach().double().numpy() for parameter in module.parameters()), None)
    expected = np.zeros(z.shape)
    for b, t, h in np.ndindex(*z.shape[:3]):
        expected[b, t, h] = DEFINITION[output_entry["name"]](z[b, t, h], x[b, t], h, parameter, output_entry)
    assert_close(module(mixed_BTHD, x_BTC), torch.from_numpy(expected).to(dtype))


def test_gradient_is_the_derivative(output_entry, build_kind):
    module = build_kind("attention.output", output_entry).double()
    arguments = inputs(tokens=2)
    assert torch.autograd.gradcheck(lambda z, x, *_: module(z, x), (*arguments, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("magnitude", [0.0, 1e-8, 1e4])
def test_extreme_values(output_entry, build_kind, magnitude):
    """A head that mixed nothing at all, as a row of sigmoid weights can, has no direction and stays finite."""
    module = build_kind("attention.output", output_entry)
    mixed_BTHD, x_BTC = (magnitude * x.detach() for x in inputs(dtype=torch.float32))
    mixed_BTHD.requires_grad_()
    x_BTC.requires_grad_()
    out_BTHD = module(mixed_BTHD, x_BTC)
    used = [mixed_BTHD, x_BTC, *module.parameters()]
    gradients = torch.autograd.grad(out_BTHD.sum(), used, allow_unused=True, materialize_grads=True)
    assert all(x.isfinite().all() for x in (out_BTHD, *gradients))
    assert (out_BTHD == 0).all() or magnitude > 0


def test_narrow_input_is_transformed_in_float32(build_kind):
    module = build_kind("attention.output", {"name": "head_rmsnorm"}).bfloat16()
    mixed_BTHD, x_BTC = inputs(dtype=torch.bfloat16)
    wide_BTHD = mixed_BTHD.double()
    expected_BTHD = wide_BTHD / (wide_BTHD.square().mean(dim=-1, keepdim=True) + EPS).sqrt() * module.gain.double()
    out_BTHD = module(mixed_BTHD, x_BTC)
    assert out_BTHD.dtype == torch.bfloat16
    assert_close(out_BTHD, expected_BTHD.bfloat16(), rtol=2**-8, atol=0)  # the last rounding alone


def test_gain_has_the_documented_shape(build_kind):
    shapes = {"shared": (SIZE,), "per_head": (HEADS, SIZE)}
    for gain, shape in shapes.items():
        assert build_kind("attention.output", {"name": "head_rmsnorm", "gain": gain}).gain.shape == shape
    assert build_kind("attention.output", {"name": "head_rmsnorm", "gain": "none"}).gain is None
    for granularity, gates in (("head", HEADS), ("element", HEADS * SIZE)):
        module = build_kind("attention.output", {"name": "gate", "granularity": granularity})
        assert module.projection.weight.shape == (gates, WIDTH)


def test_order_of_the_chain(build_model):
    """A gate after the norm scales the heads; a gate before it is normed away but for its signs and spread."""
    tokens_BT = torch.arange(9)[None]
    gate_last, norm_last = (
        build_model({"output": [{"name": name} for name in names]})
        for names in (("head_rmsnorm", "gate"), ("gate", "head_rmsnorm"))
    )
    assert (gate_last(tokens_BT) - norm_last(tokens_BT)).abs().max() > 1e-4
