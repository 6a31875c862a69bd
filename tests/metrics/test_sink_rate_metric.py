"""Sink rate: the paper's setting, its threshold, other positions and documents.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

import numpy as np
import pytest
import torch

from sinkpretrain.metrics.sink_rate import SinkRate


def test_setting_is_the_papers():
    assert (SinkRate.inputs.text, SinkRate.inputs.tokens, SinkRate.inputs.sequences) == ("held_out", 64, 100)


def test_uniform_weights_have_no_sink(make_view, measured, causal_weights):
    assert measured("sink_rate", make_view(causal_weights("uniform", 2, 3, 64)))["first"].tolist() == [0.0] * 3


def test_all_on_first_is_a_sink_and_leaves_none_elsewhere(make_view, measured, causal_weights):
    arrays = measured("sink_rate", make_view(causal_weights("first", 2, 3, 64)))
    assert arrays["first"].tolist() == arrays["first_normalised"].tolist() == [1.0] * 3
    assert arrays["others_max"].tolist() == [0.0] * 3


@pytest.mark.parametrize(("weight", "share"), [(0.29, 0.0), (0.31, 1.0)])
def test_threshold_is_on_raw_weights(make_view, measured, causal_weights, weight, share):
    arrays = measured("sink_rate", make_view(weight * causal_weights("first", 1, 1, 64)))
    assert arrays["first"].tolist() == [share]
    assert arrays["first_normalised"].tolist() == [1.0]


def test_share_is_over_sequences_and_the_strongest_other_position_is_found(make_view, measured, causal_weights):
    weights_BHTS = causal_weights("uniform", 4, 2, 32)
    weights_BHTS[0, 1] = causal_weights("first", 1, 1, 32)[0, 0]
    weights_BHTS[1:, 0, 5:] = torch.eye(32)[5]
    arrays = measured("sink_rate", make_view(weights_BHTS))
    assert arrays["first"].tolist() == [0.0, 0.25]
    assert arrays["others_max"].tolist() == [0.75, 0.0]
    assert arrays["sequences"] == 4


def test_a_score_is_the_mean_over_queries_from_its_key_on(make_view, measured):
    weights_BHTS = torch.zeros(1, 1, 20, 20)
    weights_BHTS[0, 0, 14:, 12] = 0.4  # 6 of the 8 queries that see key 12: 0.3 exactly is no sink, a little more is
    assert measured("sink_rate", make_view(weights_BHTS * 0.99))["others_max"].tolist() == [0.0]
    assert measured("sink_rate", make_view(weights_BHTS * 1.01))["others_max"].tolist() == [1.0]


def test_short_documents_do_not_count(make_view, measured, causal_weights, packed_BT):
    arrays = measured("sink_rate", make_view(causal_weights("uniform", 2, 1, 24, packed_BT), packed_BT))
    assert arrays["sequences"] == 2  # of 20 and of 16 tokens; those of 4, 1 and 7 would be sinks by their length alone
    assert arrays["first"].tolist() == [0.0]
    assert arrays["others_max"].tolist() == [0.0]


def test_heads_without_any_mass_are_no_sink_and_left_out_of_the_normalised_share(make_view, measured):
    arrays = measured("sink_rate", make_view(torch.zeros(1, 1, 20, 20)))
    assert arrays["first"].tolist() == [0.0]
    assert np.isnan(arrays["first_normalised"]).all()


def test_nan_never_reads_no_sink(make_view, measured):
    arrays = measured("sink_rate", make_view(torch.full((1, 1, 20, 20), torch.nan)))
    assert np.isnan(arrays["first"]).all()
    assert np.isnan(SinkRate().scalars(arrays)["sink/rate"])
