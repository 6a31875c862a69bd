"""Initial values: shared between variants, fixed by (seed, name), of the documented spread."""

import json
import math

import pytest
import torch

from sinkpretrain import registry
from sinkpretrain.model.initialisation import fingerprints
from sinkpretrain.model.llama import Llama, ModelConfig

SIZES = dict(vocab_size=211, n_layers=3, n_heads=4, n_kv_heads=2, d_model=64, d_ff=96, context_length=16)


def build(seed=0, **changes):
    return Llama(ModelConfig(**{**SIZES, **changes}), seed=seed)


@pytest.mark.parametrize("init", ["gpt2", "fan_in"])
def test_variants_share_what_they_share(init):
    plain = dict(build(init=init).named_parameters())
    variants = [{"weights": {"name": name}} for name in registry.names("attention.weights")]
    variants += [{"output": [{"name": name}]} for name in registry.names("attention.output")]
    for attention in variants:
        other = dict(build(init=init, attention=attention).named_parameters())
        assert plain.keys() <= other.keys()
        assert all(torch.equal(parameter, other[name]) for name, parameter in plain.items()), attention


def test_seeds_and_names_differ():
    first, second = (dict(build(seed).named_parameters()) for seed in (0, 1))
    drawn = [name for name in first if name.endswith("weight")]
    assert len(drawn) == 2 + 7 * SIZES["n_layers"]
    assert not [name for name in drawn if torch.equal(first[name], second[name])]
    same_shape = [name for name in drawn if first[name].shape == first["blocks.0.mlp.w_gate.weight"].shape]
    assert len(same_shape) == 6
    values = [first[name].flatten() for name in same_shape]
    correlations_NN = torch.corrcoef(torch.stack(values)) - torch.eye(6)
    assert correlations_NN.abs().max() < 5 / math.sqrt(values[0].numel())


def test_order_of_construction_and_global_state_do_not_matter():
    expected = build(seed=5).state_dict()
    torch.manual_seed(99)
    build(seed=6, n_layers=1)
    torch.rand(7)
    state = torch.get_rng_state()
    again = build(seed=5)
    assert torch.equal(torch.get_rng_state(), state), "building a model leaves the global random state alone"
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_a_deeper_model_begins_as_the_shallow_one():
    """Under `gpt2` only W_O and W_down know the number of layers."""
    shallow, deep = dict(build(n_layers=1).named_parameters()), dict(build(n_layers=3).named_parameters())
    same = {name for name, parameter in shallow.items() if torch.equal(parameter, deep[name])}
    assert shallow.keys() - same == {"blocks.0.attention.w_o.weight", "blocks.0.mlp.w_down.weight"}


C, LAYERS, F = SIZES["d_model"], SIZES["n_layers"], SIZES["d_ff"]
EXPECTED = {
    "gpt2": {"w_o": 0.02 / math.sqrt(2 * LAYERS), "w_down": 0.02 / math.sqrt(2 * LAYERS), None: 0.02},
    "fan_in": {"w_down": 1 / (LAYERS * math.sqrt(F)), None: math.sqrt(2 / (5 * C))},
}


@pytest.mark.parametrize("init", ["gpt2", "fan_in"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_spread(init, tied):
    gate = {"output": [{"name": "gate"}]}
    for name, parameter in build(init=init, tie_embeddings=tied, attention=gate).named_parameters():
        if name.endswith("gain"):
            assert (parameter == 1).all(), name
            continue
        leaf = name.split(".")[-2]
        std = EXPECTED[init].get(leaf, EXPECTED[init][None])
        count = parameter.numel()
        # Five standard errors of a standard deviation, and of a mean, over `count` normal values.
        assert parameter.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count)), name
        assert abs(parameter.mean().item()) < 5 * std / math.sqrt(count), name


@pytest.mark.parametrize("init", ["gpt2", "fan_in"])
def test_spread_of_the_kinds_own_parameters(init):
    many = {"n_heads": 32, "n_kv_heads": 32}
    bias = build(init=init, **many, attention={"weights": {"name": "kv_bias", "value": "learned"}}).blocks[1].attention
    for parameter in (bias.weights.key_HD, bias.weights.value_HD):
        assert parameter.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * parameter.numel()))
    assert not torch.equal(bias.weights.key_HD, bias.weights.value_HD)
    sink = build(init=init, attention={"weights": {"name": "learned_sink"}}).blocks[0].attention.weights.sink_H
    assert (sink == 0).all()
    assert sink.dtype == torch.float32
    norm = build(init=init, attention={"output": [{"name": "head_rmsnorm"}]}).blocks[0].attention.output[0]
    assert (norm.gain == 1).all()


def test_tied_weights_count_once_under_the_embedding():
    tied, untied = build(tie_embeddings=True), build()
    assert tied.head.weight is tied.embedding.weight
    assert "head.weight" not in dict(tied.named_parameters())
    assert torch.equal(tied.embedding.weight, untied.embedding.weight)
    assert not torch.equal(untied.head.weight, untied.embedding.weight)


def test_meta_device_then_filled():
    """A model built without memory and filled from a state dict is the model."""
    whole = build(seed=2)
    with torch.device("meta"):
        empty = build(seed=2)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    tokens_BT = torch.arange(12)[None]
    assert empty(tokens_BT.to("meta")).shape == (1, 12, SIZES["vocab_size"])
    empty.load_state_dict(whole.state_dict(), assign=True)
    assert torch.equal(empty(tokens_BT), whole(tokens_BT))


def test_fingerprints_tell_values_shapes_and_dtypes_apart():
    x = torch.arange(6, dtype=torch.float32)
    nudged = x.clone()
    nudged[3] = torch.nextafter(x[3], x[4])
    different = [x, x.double(), x.reshape(2, 3), x.reshape(3, 2), nudged, x.bfloat16(), torch.tensor(0.0), -x]
    found = fingerprints({str(place): tensor for place, tensor in enumerate(different)})
    assert len({entry["sha256"] for entry in found.values()}) == len(different)
    assert found["2"]["shape"] == [2, 3]
    assert found["6"]["shape"] == []
    assert json.loads(json.dumps(found)) == found
    turned = fingerprints({"0": x.reshape(2, 3).T.contiguous().T, "1": torch.nn.Parameter(x)})
    assert [entry["sha256"] for entry in turned.values()] == [found["2"]["sha256"], found["0"]["sha256"]]


def test_fingerprints_of_variants_of_a_seed_agree_where_names_do():
    plain = fingerprints(dict(build(seed=1).named_parameters()))
    gated = fingerprints(dict(build(seed=1, attention={"output": [{"name": "gate"}]}).named_parameters()))
    other = fingerprints(dict(build(seed=2).named_parameters()))
    assert plain == {name: gated[name] for name in plain}
    assert len(gated) == len(plain) + SIZES["n_layers"]
    assert all(plain[name] != other[name] for name in plain if name.endswith("weight"))
