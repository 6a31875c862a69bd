"""What must be true of models at initialisation, where theory says what to expect: the root of sinks in 2605.06611.

The scores of an untrained model are near zero, so that softmax averages values uniformly: over t + 1 tokens their
variance falls like 1 / (t + 1). Sigmoid's weights are near one half each: it grows like t + 1.
Shapes use B batch, T positions.
"""

from functools import cache

import numpy as np
import pytest
import torch

from sinkpretrain.data.windows import Batch
from sinkpretrain.model.llama import Llama, ModelConfig
from sinkpretrain.probing import Probe

TOKENS, VOCABULARY = 128, 8192
COUNT_T = np.arange(1, TOKENS + 1)


def held_out(sequences):
    tokens_BT = torch.randint(VOCABULARY, (sequences, TOKENS + 1), generator=torch.Generator().manual_seed(5))
    return [Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], None)]


@cache
def found(weights, output=None):
    config = ModelConfig(
        vocab_size=VOCABULARY,
        n_layers=3,
        d_model=64,
        d_ff=128,
        context_length=TOKENS,
        attention={"weights": {"name": weights}, "output": [{"name": output}] if output else []},
    )
    names = ("first_token_attention", "sink_rate", "positional_variance", "head_balance")
    return Probe(names, held_out=held_out, sequences=4).run(Llama(config)).arrays


def test_first_token_attention_is_uniform():
    for weights in ("softmax", "sigmoid"):
        arrays = found(weights)
        uniform = arrays["first_token_attention/uniform"]
        np.testing.assert_allclose(arrays["first_token_attention/normalised"], np.full((3, 4), uniform), rtol=0.02)
    np.testing.assert_allclose(arrays["first_token_attention/raw"], np.full((3, 4), 0.5), rtol=0.02)
    np.testing.assert_allclose(arrays["first_token_attention/mass"], 0.25 * (TOKENS + 2), rtol=0.02)


def test_raw_sink_rate_of_sigmoid_says_nothing_without_the_normalised_one():
    """Every weight is near one half, above the threshold, and no position stands out."""
    arrays = found("sigmoid")
    assert (arrays["sink_rate/first"] == 1).all()
    assert (arrays["sink_rate/others_max"] == 1).all()
    assert (arrays["sink_rate/first_normalised"] == 0).all()


def test_raw_and_normalised_agree_for_softmax():
    arrays = found("softmax")
    for metric, raw in (("first_token_attention", "raw"), ("sink_rate", "first")):
        normalised = "normalised" if raw == "raw" else "first_normalised"
        np.testing.assert_allclose(arrays[f"{metric}/{normalised}"], arrays[f"{metric}/{raw}"], rtol=1e-6)


def test_entropy_is_that_of_uniform_rows():
    expected = np.log(COUNT_T[1:]).mean()
    np.testing.assert_allclose(found("softmax")["head_balance/entropy"], np.full((3, 4), expected), rtol=0.01)


@pytest.mark.parametrize(("weights", "power"), [("softmax", -1), ("sigmoid", 1)])
def test_variance_of_mixed_values_follows_the_number_of_tokens(weights, power):
    curve_T = found(weights)["positional_variance/mixed"][0]
    slope = np.polyfit(np.log(COUNT_T), np.log(curve_T), 1)[0]
    assert abs(slope - power) < 0.05


def test_softmax_leaves_the_first_token_an_outlier_that_reaches_the_residual_stream():
    arrays = found("softmax")
    expected = 1 / (1 / COUNT_T[TOKENS // 2 :]).mean()  # 92 at 128 tokens
    for name in ("discrepancy", "discrepancy_head_out", "discrepancy_attn_out"):
        np.testing.assert_allclose(arrays[f"positional_variance/{name}"][0], expected, rtol=0.1)
    assert (arrays["positional_variance/discrepancy_attn_out"] > 4).all()  # deeper layers mix what is mixed already


def test_head_rmsnorm_restores_parity_before_w_o_only():
    arrays = found("softmax", "head_rmsnorm")
    assert arrays["positional_variance/discrepancy"][0] > 50
    for name in ("discrepancy_head_out", "discrepancy_attn_out"):
        # Not 1 exactly: an average over t tokens of V kinds holds their mean vector, about t / V of its energy, which
        # does not vary but takes its share of the norm; and late values are small enough to feel the eps of the norm.
        np.testing.assert_allclose(arrays[f"positional_variance/{name}"], 1.0, atol=0.1)


def test_sigmoid_turns_the_discrepancy_around():
    """The first token is an outlier still, of low variance; at a sum of more tokens the others are the loud ones."""
    assert (found("sigmoid")["positional_variance/discrepancy"] < 0.02).all()
