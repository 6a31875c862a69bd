"""The check before step 1: every kind passes it, every way of ignoring a variant does not.

Shapes use B batch, T positions, H heads, D head size, C model width.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from sinkpretrain import registry
from sinkpretrain.attention.base import AttentionWeights, Mask
from sinkpretrain.attention.output.head_rmsnorm import HeadRMSNorm
from sinkpretrain.attention.weights.kv_bias import KvBias
from sinkpretrain.attention.weights.softmax import Softmax
from sinkpretrain.calibration import calibrate
from sinkpretrain.data.windows import Batch
from sinkpretrain.errors import SinkpretrainError
from sinkpretrain.model.llama import Llama, ModelConfig, SelfAttention
from sinkpretrain.model.self_check import TOKENS, WATCHED, WINDOWS, refuse_ignored_variant
from sinkpretrain.taps import Tap

OTHER_KINDS = [name for name in registry.names("attention.weights") if name != "softmax"]
NORMED_AND_GATED = {"weights": {"name": "sigmoid"}, "output": [{"name": "head_rmsnorm"}, {"name": "gate"}]}
EVERY = [
    {},
    *({"weights": {"name": name}} for name in OTHER_KINDS),
    {"weights": {"name": "sigmoid", "bias": "minus_log_context", "normalize": True}},
    {"weights": {"name": "kv_bias", "value": "learned"}},
    *({"output": [{"name": name}]} for name in registry.names("attention.output")),
    {"output": [{"name": "head_rmsnorm", "gain": "none"}]},
    {"output": [{"name": "gate", "granularity": "head"}]},
    NORMED_AND_GATED,
]
SIZES = dict(vocab_size=97, n_layers=3, n_heads=4, n_kv_heads=2, d_model=32, d_ff=48, context_length=96)


def build(attention=None, **changes):
    """A model as a run begins it: scores are small, so that kinds lie as close as they ever do."""
    return Llama(ModelConfig(**{**SIZES, **changes}, attention=attention or {}), seed=3)


def batch(documents=False):
    tokens_BT = torch.randint(97, (3, 96), generator=torch.Generator().manual_seed(4))
    return Batch(tokens_BT, tokens_BT, torch.zeros_like(tokens_BT) if documents else None)


def refused(model, match, documents=False):
    with pytest.raises(SinkpretrainError, match=match) as error:
        refuse_ignored_variant(model, batch(documents))
    assert "nothing was trained" in str(error.value)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("attention", EVERY, ids=str)
def test_every_kind_passes(attention, documents, autocast):
    model = build(attention)
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        refuse_ignored_variant(model, batch(documents))


@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_fused_path_that_computes_softmax_is_refused(name, documents, monkeypatch):
    monkeypatch.setattr(registry.load("attention.weights", name), "fused", Softmax.fused)
    refused(build({"weights": {"name": name}}), f"layer 0: what '{name}' mixes is not its definition's", documents)


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_it_is_refused_under_autocast_too(name, monkeypatch):
    monkeypatch.setattr(registry.load("attention.weights", name), "fused", Softmax.fused)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refused(build({"weights": {"name": name}}), "mixes is not its definition's.*bfloat16")


def test_normalised_sigmoid_is_told_from_softmax_where_they_are_nearest(monkeypatch):
    monkeypatch.setattr(registry.load("attention.weights", "sigmoid"), "fused", Softmax.fused)
    refused(build({"weights": {"name": "sigmoid", "normalize": True}}), "what 'sigmoid' mixes")


def changed_fused(monkeypatch, change):
    """Softmax attention whose fused path is given something else."""
    fused = Softmax.fused
    monkeypatch.setattr(Softmax, "fused", lambda kind, *given: fused(kind, *change(*given)))


def test_a_fused_path_that_ignores_documents_is_refused(monkeypatch):
    changed_fused(monkeypatch, lambda q, k, v, mask: (q, k, v, Mask(mask.tokens, mask.device)))
    refuse_ignored_variant(build(), batch())
    refused(build(), "what 'softmax' mixes", documents=True)


def test_a_fused_path_that_is_not_causal_is_refused(monkeypatch):
    def everything(kind, q_BTHD, k_BTGD, v_BTGD, mask):
        parts = (rearrange(x, "b t h d -> b h t d") for x in (q_BTHD, k_BTGD, v_BTGD))
        return rearrange(F.scaled_dot_product_attention(*parts, enable_gqa=True), "b h t d -> b t h d")

    monkeypatch.setattr(Softmax, "fused", everything)
    refused(build(), "what 'softmax' mixes")


def test_a_fused_path_with_another_scale_is_refused(monkeypatch):
    changed_fused(monkeypatch, lambda q, k, v, mask: (1.5 * q, k, v, mask))
    refused(build(), "what 'softmax' mixes")


def test_one_layer_is_enough():
    model = build({"weights": {"name": "softmax_off_by_one"}})
    kind = model.blocks[2].attention.weights
    kind.fused = lambda *given: Softmax.fused(kind, *given)
    refused(model, "layer 2: what 'softmax_off_by_one' mixes")


def test_a_learned_key_without_its_value_is_refused(monkeypatch):
    mute = KvBias.fused

    def without(kind, *given):
        value_HD, kind.value_HD = kind.value_HD, None
        try:
            return mute(kind, *given)
        finally:
            kind.value_HD = value_HD

    monkeypatch.setattr(KvBias, "fused", without)
    refused(build({"weights": {"name": "kv_bias", "value": "learned"}}), "what 'kv_bias' mixes")


@pytest.mark.parametrize("left", ["calibration", "an edited mask"])
def test_what_is_left_of_an_experiment_is_refused(left):
    model = build()
    if left == "calibration":
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8)  # some heads have sinks
        with calibrate(model, first_layer=1, alpha=1.2):
            refused(model, "layer 1: what 'softmax' mixes")
    else:
        model.blocks[1].attention.weights.mask_edits.append(lambda mask: replace(mask, isolated=5))
        refused(model, "layer 1: what 'softmax' mixes")


def test_modules_other_than_the_configurations_are_refused():
    model, other = build(NORMED_AND_GATED), build()
    model.blocks[1].attention.weights = other.blocks[1].attention.weights
    refused(model, "layer 1: its attention is softmax then head_rmsnorm with .* then gate.* asks for sigmoid with")
    model = build(NORMED_AND_GATED)
    model.blocks[2].attention.output = torch.nn.ModuleList()
    refused(model, "layer 2: its attention is sigmoid with .*asks for sigmoid with .* then head_rmsnorm with .* then")
    model = build(NORMED_AND_GATED)
    model.blocks[0].attention.output = torch.nn.ModuleList(reversed(model.blocks[0].attention.output))
    refused(model, "layer 0: its attention is sigmoid with .* then gate with .* then head_rmsnorm")
    plain = build({"output": [{"name": "head_rmsnorm", "gain": "none"}]})
    plain.config = build({"output": [{"name": "head_rmsnorm"}]}).config
    refused(plain, "gain='none'.*asks for softmax then head_rmsnorm with .*gain='shared'")


def test_a_registry_that_gives_softmax_for_everything_is_refused(monkeypatch):
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: load(kind, "softmax" if "weights" in kind else name))
    refused(build({"weights": {"name": "learned_sink"}}), "its attention is softmax, .* asks for learned_sink")


def test_output_transforms_that_the_forward_pass_leaves_out_are_refused(monkeypatch):
    forward = SelfAttention.forward

    def without_the_last(attention, *given):
        kept = attention.output
        attention.output = kept[:-1]
        try:
            return forward(attention, *given)
        finally:
            attention.output = kept

    model = build(NORMED_AND_GATED)
    monkeypatch.setattr(SelfAttention, "forward", without_the_last)
    refused(model, r"what goes to W_O is not the mixed values after \['head_rmsnorm', 'gate'\]")


def test_output_transforms_that_change_nothing_are_refused(monkeypatch):
    monkeypatch.setattr(HeadRMSNorm, "forward", lambda norm, mixed_BTHD, x_BTC: mixed_BTHD)
    refused(build({"output": [{"name": "head_rmsnorm"}]}), r"\['head_rmsnorm'\] leave the mixed values as they are")


def test_a_gate_of_another_input_is_refused(monkeypatch):
    gate = registry.load("attention.output", "gate")
    forward, calls = gate.forward, []

    def late(module, mixed_BTHD, x_BTC):
        calls.append(module)
        return forward(module, mixed_BTHD, x_BTC.roll(1, dims=1) if calls.count(module) == 1 else x_BTC)

    monkeypatch.setattr(gate, "forward", late)
    refused(build({"output": [{"name": "gate"}]}), "what goes to W_O is not")


@pytest.mark.parametrize("name", WATCHED)
def test_a_pass_that_avoids_a_tap_is_refused(name, monkeypatch):
    forward = Tap.forward
    monkeypatch.setattr(Tap, "forward", lambda tap, x: x if (tap.name, tap.layer) == (name, 1) else forward(tap, x))
    refused(build(), "layer 1: the forward pass does not go through the taps of its attention")


def test_weights_that_are_not_finite_are_left_to_the_loss():
    """There is no definition to hold NaN against; training itself ends with exit code 4."""
    model = build()
    with torch.no_grad():
        model.blocks[1].attention.w_v.weight[0, 0] = torch.nan
    refuse_ignored_variant(model, batch())


def test_it_leaves_no_trace():
    model = build(NORMED_AND_GATED)
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    torch.manual_seed(8)
    state = torch.get_rng_state()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    refuse_ignored_variant(model, batch(documents=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not any(getattr(module, "watchers", ()) for module in model.modules())


def test_it_reads_a_few_tokens_without_dropout(monkeypatch):
    passes, forward = [], Llama.forward

    def note(model, *given):
        passes.append((*given[0].shape, model.training, torch.is_grad_enabled()))
        return forward(model, *given)

    monkeypatch.setattr(Llama, "forward", note)
    given = batch(documents=True)
    kept = given.document_BT.clone()
    refuse_ignored_variant(build(), given)
    assert passes == [(WINDOWS, TOKENS, False, False)]
    assert torch.equal(given.document_BT, kept)


def test_the_definition_itself_is_not_the_models_path(monkeypatch):
    """Were the two the same code, nothing could differ: the judge's rows do not come from `mix`."""
    monkeypatch.setattr(AttentionWeights, "mix_rows", lambda kind, *given: torch.zeros_like(given[0]))
    refused(build({"weights": {"name": "sigmoid"}}), "what 'sigmoid' mixes")


def test_a_compiled_model_is_judged_uncompiled():
    model = build(NORMED_AND_GATED)
    model.compile(backend="eager")
    refuse_ignored_variant(model, batch())
    model.blocks[1].attention.output = torch.nn.ModuleList()
    refused(model, "layer 1: its attention is")
