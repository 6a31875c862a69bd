"""Taps: what each records, what replacing does, and that nothing stays behind.

Shapes use B batch, T positions, H query heads, G key-value heads, D head size, C model width, F feed-forward width,
V vocabulary.
"""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.errors import ConfigError
from sinkpretrain.model.llama import Llama, ModelConfig
from sinkpretrain.taps import TAPS, Tap, record, replace, watch

B, T, H, G, D, C, F, LAYERS = 2, 9, 4, 2, 6, 24, 20, 3
SHAPES = {
    "resid_in": (B, T, C),
    "q": (B, T, H, D),
    "k": (B, T, G, D),
    "v": (B, T, G, D),
    "mixed": (B, T, H, D),
    "head_out": (B, T, H, D),
    "attn_out": (B, T, C),
    "mlp_in": (B, T, C),
    "mlp_hidden": (B, T, F),
    "mlp_out": (B, T, C),
    "resid_out": (B, T, C),
}
TOKENS_BT = torch.randint(31, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    attention = {"output": [{"name": "head_rmsnorm"}, {"name": "gate"}]}
    sizes = dict(vocab_size=31, n_layers=LAYERS, n_heads=H, n_kv_heads=G, d_model=C, d_ff=F, context_length=16)
    return Llama(ModelConfig(**sizes, attention=attention))


def watchers(model):
    return [watcher for module in model.modules() if isinstance(module, Tap) for watcher in module.watchers]


def test_every_tap_has_its_shape(model):
    assert set(SHAPES) == set(TAPS)
    with record(model, *TAPS) as taps:
        logits_BTV = model(TOKENS_BT)
    for name, shape in SHAPES.items():
        assert {layer: tuple(x.shape) for layer, x in taps[name].items()} == dict.fromkeys(range(LAYERS), shape), name
        assert not any(x.requires_grad for x in taps[name].values())
    assert torch.equal(logits_BTV, model(TOKENS_BT)), "recording changes nothing"


def test_taps_are_what_they_say(model):
    with record(model, *TAPS) as taps:
        logits_BTV = model(TOKENS_BT)
    assert_close(taps["resid_in"][0], model.embedding(TOKENS_BT))
    assert_close(model.head(model.norm(taps["resid_out"][LAYERS - 1])), logits_BTV)
    for layer, block in enumerate(model.blocks):
        after_attention_BTC = taps["resid_in"][layer] + taps["attn_out"][layer]
        assert_close(taps["resid_out"][layer], after_attention_BTC + taps["mlp_out"][layer])
        assert_close(taps["mlp_in"][layer], block.mlp_norm(after_attention_BTC))
        assert_close(taps["mlp_out"][layer], block.mlp.w_down(taps["mlp_hidden"][layer]))
        assert_close(taps["attn_out"][layer], block.attention.w_o(taps["head_out"][layer].flatten(2)))
        x_BTC = block.attention_norm(taps["resid_in"][layer])
        out_BTHD = taps["mixed"][layer]
        for transform in block.attention.output:
            out_BTHD = transform(out_BTHD, x_BTC)
        assert_close(taps["head_out"][layer], out_BTHD)
        assert_close(taps["v"][layer], block.attention.w_v(x_BTC).unflatten(-1, (G, D)))
        scores = torch.einsum("bthd,bshd->bhts", taps["q"][layer], taps["k"][layer].repeat_interleave(H // G, dim=2))
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        weights_BHTS = (scores / D**0.5).masked_fill(later, -torch.inf).softmax(dim=-1)
        v_BTHD = taps["v"][layer].repeat_interleave(H // G, dim=2)
        assert_close(taps["mixed"][layer], torch.einsum("bhts,bshd->bthd", weights_BHTS, v_BTHD))


def test_record_keeps_the_last_pass_and_leaves_no_watcher(model):
    with record(model, "resid_out") as taps:
        assert taps == {"resid_out": {}}
        model(TOKENS_BT)
        model(TOKENS_BT[:1, :4])
        assert len(watchers(model)) == LAYERS
    assert taps["resid_out"][0].shape == (1, 4, C)
    assert not watchers(model)
    model(TOKENS_BT)
    assert taps["resid_out"][0].shape == (1, 4, C)


def test_an_exception_leaves_no_watcher(model):
    def fail():
        with record(model, *TAPS), replace(model, "q", torch.zeros_like):
            model(TOKENS_BT)
            raise KeyboardInterrupt

    before = model(TOKENS_BT)
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not watchers(model)
    assert torch.equal(model(TOKENS_BT), before)


@pytest.mark.parametrize("name", TAPS)
def test_replace(model, name):
    before = model(TOKENS_BT)
    with replace(model, name, lambda x: x):
        assert torch.equal(model(TOKENS_BT), before), "the identity changes nothing"
    # Another amount at each position: a shift shared by all keys is one that softmax rightly ignores.
    shift_T = torch.linspace(1, 8, T).reshape(T, *[1] * (len(SHAPES[name]) - 2))
    with replace(model, name, lambda x: x + shift_T * torch.linspace(-1, 1, x.shape[-1])), record(model, name) as taps:
        changed = model(TOKENS_BT)
        assert (changed - before).abs().max() > 1e-4
    with record(model, name) as original:
        assert torch.equal(model(TOKENS_BT), before), "leaving restores the model"
    assert (taps[name][0] - original[name][0]).abs().max() > 0.5, "what is recorded is what flowed on"


def test_replace_is_differentiated(model):
    def gradients():
        return torch.autograd.grad(model(TOKENS_BT).square().sum(), [block.mlp.w_down.weight for block in model.blocks])

    before = gradients()
    with replace(model, "mlp_out", lambda x: x, layer=1):
        assert all(torch.equal(one, other) for one, other in zip(gradients(), before, strict=True))
    with replace(model, "mlp_out", lambda x: 0 * x, layer=1):
        assert [bool(gradient.any()) for gradient in gradients()] == [True, False, True]


def test_one_layer_alone(model):
    seen = []
    with watch(model, "mlp_out", lambda x: seen.append(1), layer=1):
        model(TOKENS_BT)
    assert len(seen) == 1
    with record(model, "resid_out") as before:
        model(TOKENS_BT)
    with replace(model, "mlp_out", torch.zeros_like, layer=1), record(model, "resid_out") as after:
        model(TOKENS_BT)
    same = [torch.equal(before["resid_out"][layer], after["resid_out"][layer]) for layer in range(LAYERS)]
    assert same == [True, False, False]


def test_unknown_taps_and_layers_are_refused(model):
    with pytest.raises(ConfigError, match=r"tap 'resid_mid' is not one of resid_in, q, k"), record(model, "resid_mid"):
        pass
    for layer in (LAYERS, -1):
        with pytest.raises(ConfigError, match=rf"layer {layer} is not one of 0 \.\. 2"), watch(model, "q", id, layer):
            pass
    with pytest.raises(ConfigError, match="'attention'"), record(model, "resid_out", "attention"):
        pass
    assert not watchers(model)


def test_a_compiled_model_is_recorded_too(model):
    expected = model(TOKENS_BT)
    compiled_calls = []

    def backend(graph, inputs):
        return lambda *given: compiled_calls.append(1) or graph(*given)

    model.compile(backend=backend)
    assert torch.equal(model(TOKENS_BT), expected)
    assert compiled_calls
    compiled_calls.clear()
    with record(model, *TAPS) as taps:
        model(TOKENS_BT)
    assert {name: len(layers) for name, layers in taps.items()} == dict.fromkeys(TAPS, LAYERS)
    with replace(model, "attn_out", torch.zeros_like):
        assert (model(TOKENS_BT) - expected).abs().max() > 1e-3
    assert not compiled_calls, "watched passes run uncompiled"
    assert torch.equal(model(TOKENS_BT), expected)
    assert compiled_calls, "and it is compiled again afterwards"
