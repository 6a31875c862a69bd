"""Sinks by token: planted ones, first against later positions, a loop over documents.

Shapes use B batch, T query positions, S key positions, H query heads, K tokens of the table.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from sinkpretrain.metrics.sink_tokens import SinkTokens

TOKENS, TABLE = 24, 32
COUNTS = ("first", "later", "later_causal_null", "seen")


def random_tokens(batch, vocabulary):
    return torch.randint(vocabulary, (batch, TOKENS), generator=torch.Generator().manual_seed(4))


def harmonic(number):
    return sum(1 / n for n in range(1, number + 1))


def by_token(arrays, name):
    """{token: count} of those in the table that have a count."""
    pairs = zip(arrays["token"].astype(int).tolist(), arrays[name].tolist(), strict=True)
    return {token: count for token, count in pairs if count}


def test_planted_sinks_are_found_by_their_tokens(make_view, measured):
    """Token 49 is a sink at positions 5 and 9 in one head, token 3 at position 0 in both heads of both sequences."""
    tokens_BT = torch.full((2, TOKENS), 11)
    tokens_BT[:, 0], tokens_BT[0, [5, 9]], tokens_BT[1, 5] = 3, 49, 12
    weights_BHTS = torch.zeros(2, 2, TOKENS, TOKENS)
    weights_BHTS[..., 0] = 0.5
    weights_BHTS[:, 1, :, [5, 9]] = 0.22  # above 5 / 24 = 0.208; the causal null draws the line at 0.39 or so
    weights_BHTS[0, 1, :, 9] = 0.9
    arrays = measured("sink_tokens", make_view(weights_BHTS.tril(), tokens_BT=tokens_BT))
    assert arrays["token"][:2].tolist() == [3, 49]
    assert by_token(arrays, "first") == {3: 4.0}
    assert by_token(arrays, "later") == {49: 2.0, 11: 1.0, 12: 1.0}
    assert by_token(arrays, "later_causal_null") == {49: 1.0}
    assert by_token(arrays, "seen") == {3: 4.0, 49: 4.0, 12: 2.0, 11: 4.0 * TOKENS - 10.0}
    assert arrays["flagged_total"] == 8


def test_the_table_holds_those_flagged_most_often_of_all_tokens(make_view, measured, causal_weights):
    """Fifty tokens, each at one position: every later one is a sink of as many heads as its place in the order."""
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    weights_BHTS = torch.zeros(1, 50, 50, 50)
    for position in range(50):
        weights_BHTS[0, : position + 1, position:, position] = 0.9
    arrays = measured("sink_tokens", make_view(weights_BHTS, tokens_BT=order[None]))
    assert arrays["token"].tolist() == order.flip(0)[:TABLE].tolist()
    assert arrays["later"].tolist() == list(range(50, 50 - TABLE, -1))
    assert arrays["flagged_total"] == 50 * 51 / 2  # also of those outside the table


def test_a_small_vocabulary_is_in_the_table_as_a_whole(make_view, measured, causal_weights):
    view = make_view(causal_weights("first", 2, 1, TOKENS), tokens_BT=random_tokens(2, 10))
    arrays = measured("sink_tokens", replace(view, vocab_size=10))
    assert sorted(arrays["token"]) == list(range(10))


def test_layers_add_up(make_view, causal_weights):
    metric = SinkTokens()
    view = make_view(causal_weights("first", 2, 3, TOKENS), tokens_BT=random_tokens(2, 10))
    sums = {key: np.stack([value.numpy()] * 4) for key, value in metric.measure(view).items()}
    arrays = metric.finish(sums)
    assert arrays["first"].sum() == arrays["flagged_total"] == 2 * 3 * 4
    assert arrays["seen"].sum() == 2 * 3 * 4 * TOKENS


@pytest.mark.parametrize("has_documents", [False, True])
def test_matches_a_loop(make_view, measured, causal_weights, packed_BT, documents, has_documents):
    document_BT = packed_BT if has_documents else None
    weights_BHTS = causal_weights("random", 2, 3, TOKENS, document_BT) ** 2
    tokens_BT = random_tokens(2, TABLE)
    expected = {name: defaultdict(float) for name in COUNTS}
    for window, place in documents(packed_BT if has_documents else torch.zeros(2, TOKENS)):
        own_HTS = weights_BHTS[window, :, place, place].double().numpy()
        length = own_HTS.shape[1]
        for k, token in enumerate(tokens_BT[window, place].tolist()):
            score_H = own_HTS[:, k:, k].mean(axis=1)
            expected["seen"][token] += 3
            expected["first" if k == 0 else "later"][token] += (score_H > 5 / length).sum()
            if k > 0:
                null = (harmonic(length) - harmonic(k)) / (length - k)
                expected["later_causal_null"][token] += (score_H > 5 * null).sum()
    arrays = measured("sink_tokens", make_view(weights_BHTS, document_BT, tokens_BT=tokens_BT))
    for name in COUNTS:
        nonzero = {token: count for token, count in expected[name].items() if count}
        assert nonzero
        assert by_token(arrays, name) == nonzero
    flagged_K = arrays["first"] + arrays["later"]
    assert (np.diff(flagged_K) <= 0).all()
    assert arrays["flagged_total"] == flagged_K.sum()


def test_nan_never_reads_no_sink(make_view, measured, causal_weights):
    """The tokens of a diverged model are in the table, not behind those that were never flagged."""
    tokens_BT = torch.tensor([[49] * TOKENS])
    arrays = measured("sink_tokens", make_view(torch.full((1, 1, TOKENS, TOKENS), torch.nan), tokens_BT=tokens_BT))
    assert arrays["token"][0] == 49
    for name in ("first", "later", "later_causal_null"):
        assert np.isnan(arrays[name][0])
    assert np.isnan(arrays["flagged_total"])
