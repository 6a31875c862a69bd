"""All metrics on a real model: what 2605.06611 says of the first token and of super neurons, in SmolLM2-135M-Instruct.

Bounds hold with room to spare on each of four sets of eight windows, one of them from the middle of articles. No BOS
comes first: position 0 is whatever token a text begins with.
Shapes use B batch, T positions, G key-value heads, H query heads, K tokens of a table, L layers.
"""

from dataclasses import replace

import numpy as np
import pytest

from sinkpretrain import registry
from sinkpretrain.data.tokenizer import token_text
from sinkpretrain.data.windows import Batch
from sinkpretrain.model.load import load_model
from sinkpretrain.probing import Probe

pytestmark = [pytest.mark.slow, pytest.mark.network]
pytest.importorskip("gguf", reason="GGUF files need the extra 'hub'")

BIRTH, NEURON = 11, 1229  # the layer and the neuron that make the first token's massive activation
AFTER = slice(BIRTH + 1, 30)


@pytest.fixture(scope="module")
def found(smollm2, prose):
    """What a probe says of 8 windows of 128 tokens, and of 8 random ones of 32 where a metric asks for 64 of 256."""
    model, tokenizer = load_model(smollm2.root)
    text_BT = prose[:8]
    probe = Probe(
        registry.names("metrics"),
        held_out=lambda _: [Batch(text_BT, text_BT, None)],
        sequences=8,
        tokens=128,
        token_text=lambda token: token_text(tokenizer, token),
    )
    for metric in probe.metrics.values():
        if metric.inputs.text == "random":
            metric.inputs = replace(metric.inputs, tokens=32, sequences=8)
    return probe.run(model).arrays


def test_one_super_neuron_makes_the_first_tokens_massive_activation(found):
    neurons = {name: found[f"super_neurons/{name}"][BIRTH] for name in ("flagged", "top3_share", "first", "others")}
    assert neurons["flagged"][NEURON] == 1
    assert neurons["flagged"].sum() <= 4
    assert neurons["first"].argmax() == NEURON
    assert neurons["first"][NEURON] > 1000
    assert neurons["others"][NEURON] < 20
    assert neurons["top3_share"][NEURON] > 0.95
    assert np.median(neurons["top3_share"]) < 0.1
    assert found["super_neurons/kurtosis"][BIRTH, NEURON] > 300
    assert 2.5 < np.median(found["super_neurons/kurtosis"][BIRTH]) < 4


def test_it_answers_to_the_first_position_alone(found):
    assert found["gate_similarity/neuron"][BIRTH] == NEURON
    cosine_T, up_T = found["gate_similarity/gate_cosine"][BIRTH], found["gate_similarity/up"][BIRTH]
    activation_T = found["gate_similarity/activation"][BIRTH]
    assert cosine_T[0] > 0.4
    assert cosine_T[1:].max() < 0
    assert up_T[0] > 2 * abs(up_T[1:]).max()
    assert activation_T[0] > 5 * abs(activation_T[1:]).max()


def test_massive_activations_are_the_first_tokens(found):
    assert found["dominance_ratio/first"][BIRTH:28].min() > 150
    assert found["dominance_ratio/others"].max() < 60
    assert (found["massive_activation/first"][BIRTH:29] == 1).all()
    assert (found["representation_norm/first"] / found["representation_norm/others"])[BIRTH + 1 : 28].min() > 20


def test_the_norm_makes_one_direction_of_every_massive_token(found):
    assert found["norm_direction/cosine_first"][BIRTH + 1 : 29].min() > 0.98
    assert found["norm_direction/cosine_others"].max() < 0.95
    assert found["norm_direction/top_share_first"][BIRTH + 1 : 29].min() > 0.5
    assert found["norm_direction/cosine_first"][BIRTH] < 0.97  # one layer before


def test_queries_meet_the_first_key_and_attend_to_it(found):
    positive_LH, attention_L = found["key_alignment/positive"], found["first_token_attention/raw"].mean(axis=1)
    assert positive_LH[AFTER].mean(axis=1).min() > 0.97
    assert positive_LH[BIRTH].mean() < 0.6
    assert attention_L[AFTER].min() > 0.2
    assert attention_L[AFTER].mean() > 0.45
    assert attention_L[[0, 1, 10, 11]].max() < 0.1
    assert attention_L[3:10].min() > 0.15  # weaker sinks before
    assert found["attention_map/raw"][AFTER, 32:, 0].mean(axis=1).min() > 0.2


def test_sinks_are_at_the_first_position_and_their_values_are_small(found):
    first_LG, others_LG = found["value_norm/first"], found["value_norm/others"]
    assert (first_LG / others_LG).mean(axis=1)[AFTER].max() < 0.6
    flagged_LT = found["sink_positions/flagged"]
    assert (flagged_LT[AFTER, 0] == found["sink_positions/count"][AFTER, 0]).all()
    assert flagged_LT[AFTER, 1:].max() < 0.9 * flagged_LT[AFTER, 0].min()


def test_later_sinks_are_words_without_meaning(found):
    """As in Table 1 of ACT: articles, prepositions, punctuation."""
    later_K = found["sink_tokens/later"].argsort()[::-1][:3]
    assert found["sink_tokens/text"][later_K][0].strip() == "the"
    assert {text.strip() for text in found["sink_tokens/text"][later_K]} <= {"the", ".", ",", "of", "and", ""}


def test_everything_is_of_the_documented_size_and_attention_rows_sum_to_one(found):
    np.testing.assert_allclose(found["attention_map/raw"].sum(axis=-1), 1.0, rtol=1e-5)
    counted = sum(found[f"score_distribution/{kind}"].sum() for kind in ("first", "sinks", "others"))
    assert counted == 30 * 9 * 8 * 128 == found["sink_positions/count"].sum()
    assert found["output_alignment/tau"].shape == (30, 576)
    assert np.isfinite(found["output_alignment/tau"]).all()
