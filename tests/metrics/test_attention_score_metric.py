"""ACT's attention score: closed forms, both thresholds, documents.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

import numpy as np
import torch

TOKENS = 24


def harmonic(number):
    return sum(1 / n for n in range(1, number + 1))


def test_uniform_weights_give_the_causal_null(make_view, measured, causal_weights):
    arrays = measured("attention_score", make_view(causal_weights("uniform", 2, 3, TOKENS)))
    null_T = [(harmonic(TOKENS) - harmonic(k)) / (TOKENS - k) for k in range(TOKENS)]
    np.testing.assert_allclose(arrays["score"], np.tile(null_T, (3, 1)), rtol=1e-6)
    assert not arrays["flagged_causal_null"].any()


def test_all_on_first_is_flagged_there_only(make_view, measured, causal_weights):
    arrays = measured("attention_score", make_view(causal_weights("first", 2, 1, TOKENS)))
    expected_T = [1.0] + [0.0] * (TOKENS - 1)
    for name in ("score", "score_normalised", "flagged", "flagged_causal_null"):
        assert arrays[name][0].tolist() == expected_T


def test_thresholds_differ_at_early_positions(make_view, measured):
    """An early token is expected to receive more than 1 / N, so that the null is stricter there than ACT's rule."""
    weights_BHTS = torch.zeros(1, 1, TOKENS, TOKENS)
    weights_BHTS[..., 2] = 5.5 / TOKENS
    arrays = measured("attention_score", make_view(weights_BHTS.tril()))
    assert arrays["flagged"][0].nonzero()[0].tolist() == [2]
    assert not arrays["flagged_causal_null"].any()


def test_documents_match_a_loop(make_view, measured, causal_weights, packed_BT, documents):
    weights_BHTS = causal_weights("random", 2, 3, TOKENS, packed_BT)
    scores, flags, nulls = ([[[] for _ in range(TOKENS)] for _ in range(3)] for _ in range(3))
    for window, place in documents(packed_BT):
        own_HTS = weights_BHTS[window, :, place, place].double().numpy()
        length = own_HTS.shape[1]
        for head in range(3):
            for k in range(length):
                score = own_HTS[head, k:, k].mean()
                scores[head][k].append(score)
                flags[head][k].append(score > 5 / length)
                nulls[head][k].append(score > 5 * (harmonic(length) - harmonic(k)) / (length - k))
    arrays = measured("attention_score", make_view(weights_BHTS, packed_BT))
    for name, expected in (("score", scores), ("flagged", flags), ("flagged_causal_null", nulls)):
        expected_HT = [[np.mean(of) if of else np.nan for of in of_head] for of_head in expected]
        np.testing.assert_allclose(arrays[name], expected_HT, rtol=1e-6)
