"""What every metric of the registry must keep: documented arrays, finite values, sums that add up, documents apart.

Shapes use B batch, T query positions, S key positions, H query heads, G key-value heads, D head size, C model width,
F feed-forward neurons, K bins or entries of a table, E edges of bins.
"""

import math

import numpy as np
import pytest
import torch

from sinkpretrain import registry
from sinkpretrain.data.windows import Batch
from sinkpretrain.model.llama import Llama, ModelConfig
from sinkpretrain.probing import Probe

NAMES = registry.names("metrics")
SIZES = {"L": 2, "H": 4, "G": 2, "T": 24, "S": 24, "C": 16, "F": 40}
VOCABULARY = 50
LISTS = {"score_distribution": {"E": 61, "K": 60}, "sink_tokens": {"K": 32}}  # 32 of the vocabulary, or all of it
ATTENTION = [
    *({"weights": {"name": name}} for name in registry.names("attention.weights")),
    *({"output": [{"name": name}]} for name in registry.names("attention.output")),
    {"weights": {"name": "sigmoid", "normalize": True}},
]


def held_out(sequences, document_BT=None):
    tokens_BT = torch.randint(VOCABULARY, (sequences, 25), generator=torch.Generator().manual_seed(5))
    documents = None if document_BT is None else document_BT.repeat(sequences, 1)[:sequences]
    return [Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], documents)]


def random_taps(batch, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "mixed": (4, 3),
        "head_out": (4, 3),
        "v": (2, 3),
        "attn_out": (12,),
        "resid_in": (12,),
        "resid_out": (12,),
        "q": (4, 3),
        "k": (2, 3),
        "mlp_in": (12,),
        "mlp_hidden": (20,),
    }
    return {tap: torch.randn(batch, tokens, *shape, generator=generator) for tap, shape in shapes.items()}


def random_matrices():
    generator = torch.Generator().manual_seed(3)
    shapes = {
        **{"w_q": (12, 12), "w_k": (6, 12), "w_v": (6, 12), "w_o": (12, 12)},
        **{"w_gate": (20, 12), "w_up": (20, 12), "w_down": (12, 20), "attention_norm": (12,), "mlp_norm": (12,)},
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def random_tokens(batch, tokens):
    return torch.randint(VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(6))


def corner(value, axes, tokens):
    """The part of an array that is about the first positions."""
    return value[tuple(slice(tokens) if axis in "TS" else slice(None) for axis in axes)]


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_source_and_every_array(name):
    metric = registry.load("metrics", name)
    assert metric.arrays
    assert any(source in metric.__doc__ for source in ("2605.06611", "2410.10781", "2406.15765", "2402.17762")), name
    for array in metric.arrays:
        says = f"`{array}`" in metric.__doc__
        assert says or array.startswith("discrepancy") or (name, array) == ("first_token_attention", "raw"), array


@pytest.mark.parametrize("attention", ATTENTION, ids=str)
def test_arrays_of_a_real_model_are_finite_and_of_the_documented_shape(attention):
    config = ModelConfig(
        vocab_size=VOCABULARY,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_model=16,
        d_ff=40,
        context_length=24,
        attention=attention,
    )
    found = Probe(NAMES, held_out=held_out).run(Llama(config, seed=1))
    flagged_LGE = found.arrays["attention_score/flagged"].reshape(2, 2, -1)  # heads of a group, and positions
    # The only means that may be over nothing: of layers and groups where nothing is a sink, or where all is.
    nothing = {
        "value_norm/sinks": (flagged_LGE == 0).all(axis=2),
        "value_norm/not_sinks": (flagged_LGE == 1).all(axis=2),
    }
    for name in NAMES:
        sizes = SIZES | LISTS.get(name, {})
        for array, axes in registry.load("metrics", name).arrays.items():
            key = f"{name}/{array}"
            value = found.arrays[key]
            assert value.dtype == np.float64
            assert value.shape == tuple(sizes[axis] for axis in axes), key
            np.testing.assert_array_equal(~np.isfinite(value), nothing.get(key, np.zeros(value.shape, bool)), key)
    assert all(type(value) is float and math.isfinite(value) for value in found.scalars.values())


@pytest.mark.parametrize("name", NAMES)
def test_sums_of_a_split_batch_add_up(make_view, measured, causal_weights, name):
    weights_BHTS, taps = causal_weights("random", 5, 4, 24), random_taps(5, 24, seed=1)
    tokens_BT, matrices = random_tokens(5, 24), random_matrices()
    whole = make_view(weights_BHTS, tokens_BT=tokens_BT, matrices=matrices, **taps)
    parts = [
        make_view(
            weights_BHTS[part],
            tokens_BT=tokens_BT[part],
            matrices=matrices,
            **{tap: x[part] for tap, x in taps.items()},
        )
        for part in (slice(0, 1), slice(1, 3), slice(3, 5))
    ]
    together, split = measured(name, whole), measured(name, *parts)
    for array in together:
        np.testing.assert_allclose(split[array], together[array], rtol=1e-9, err_msg=array)


@pytest.mark.parametrize("name", [name for name in NAMES if registry.load("metrics", name).inputs.text == "held_out"])
def test_packed_documents_give_what_they_give_alone(make_view, measured, causal_weights, name):
    document_BT = torch.tensor([[0] * 20 + [1] * 20])
    weights_BHTS, taps = causal_weights("random", 1, 4, 40, document_BT).double(), random_taps(1, 40, seed=2)
    tokens_BT, more = random_tokens(1, 40), {"matrices": random_matrices()}
    halves = (slice(0, 20), slice(20, 40))
    alone = make_view(
        torch.cat([weights_BHTS[:, :, half, half] for half in halves]),
        tokens_BT=torch.cat([tokens_BT[:, half] for half in halves]),
        **more,
        **{tap: torch.cat([x[:, half] for half in halves]) for tap, x in taps.items()},
    )
    alone = measured(name, alone)
    packed = measured(name, make_view(weights_BHTS, document_BT, tokens_BT=tokens_BT, **more, **taps))
    for array, axes in registry.load("metrics", name).arrays.items():
        value = corner(packed[array], axes.removeprefix("L"), 20)
        np.testing.assert_allclose(value, alone[array], rtol=1e-9, err_msg=array)


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_depends_on_what_it_reads(make_view, measured, causal_weights, name):
    """Other weights or other tensors at the metric's own taps change the record; those it does not read, never."""
    metric = registry.load("metrics", name)
    taps, other = random_taps(3, 24, seed=1), random_taps(3, 24, seed=2)
    weights_BHTS = causal_weights("random", 3, 4, 24)
    more = {"tokens_BT": random_tokens(3, 24), "matrices": random_matrices()}
    before = measured(name, make_view(weights_BHTS, **more, **taps))
    unread = {tap: (x if tap in metric.taps else other[tap]) for tap, x in taps.items()}
    seen_BHTS = weights_BHTS if metric.reads_attention else weights_BHTS.tril(-1)
    same = measured(name, make_view(seen_BHTS, **more, **unread))
    first_BHTS = causal_weights("first", 3, 4, 24) if metric.reads_attention else weights_BHTS
    changed = measured(name, make_view(first_BHTS, **more, **other))
    assert all(np.array_equal(before[array], same[array], equal_nan=True) for array in before)
    assert any(not np.array_equal(before[array], changed[array]) for array in before)


def test_documents_of_a_real_model_are_apart():
    """Probing windows of two packed documents equals probing the documents alone, for what has no fixed length."""
    config = ModelConfig(vocab_size=VOCABULARY, n_layers=2, n_heads=2, d_model=8, d_ff=16, context_length=24)
    model = Llama(config, seed=1).double()
    for block in model.blocks:  # rows far from uniform, so that some positions are sinks
        block.attention.w_q.weight.data *= 1e4
    names = [name for name in NAMES if registry.load("metrics", name).inputs.text == "held_out"]
    document_BT = torch.tensor([[0] * 12 + [1] * 12])
    [batch] = held_out(4, document_BT)
    halves = Batch(*(x.reshape(8, 12) for x in (batch.tokens_BT, batch.targets_BT)), None)
    names.remove("sink_rate")  # leaves documents as short as these out
    packed = Probe(names, held_out=lambda _: [batch], sequences=4).run(model).arrays
    alone = Probe(names, held_out=lambda _: [halves], sequences=8).run(model).arrays
    assert 0 < alone["sink_tokens/later"].sum() < alone["sink_tokens/seen"].sum()
    for key, value in alone.items():
        name, array = key.split("/")
        packed_value = corner(packed[key], registry.load("metrics", name).arrays[array], 12)
        np.testing.assert_allclose(packed_value, value, rtol=1e-6, err_msg=key)  # RoPE's tables are float32
