"""The size of values: by head, at the first token, and at sinks wherever they are.

Shapes use B batch, T positions, S key positions, H query heads, G key-value heads, D head size.
"""

import numpy as np
import pytest
import torch

TOKENS, HEADS, GROUPS = 24, 4, 2


def values():
    """Position t of key-value head g has a norm of t + 100 g."""
    v_BTGD = torch.zeros(2, TOKENS, GROUPS, 3)
    v_BTGD[..., 1] = torch.arange(TOKENS)[:, None] + 100.0 * torch.arange(GROUPS)
    return v_BTGD


def test_first_and_others_are_by_head(make_view, measured, causal_weights):
    v_BTGD = torch.ones(2, TOKENS, 3, 4) * torch.tensor([1.0, 2.0, 3.0])[:, None]
    v_BTGD[:, 0] *= 0.1
    arrays = measured("value_norm", make_view(causal_weights("uniform", 2, 3, TOKENS), v=v_BTGD))
    np.testing.assert_allclose(arrays["first"], [0.2, 0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(arrays["others"], [2.0, 4.0, 6.0], rtol=1e-6)


def test_a_planted_sink_belongs_to_its_own_head(make_view, measured, causal_weights):
    """Head 1 of four shares its values with head 0, not with head 3; the second group has no sink."""
    weights_BHTS = causal_weights("uniform", 2, HEADS, TOKENS)
    weights_BHTS[0, 1] = torch.eye(TOKENS)[7]
    weights_BHTS[1, 1] = torch.eye(TOKENS)[9]
    arrays = measured("value_norm", make_view(weights_BHTS.tril(), v=values()))
    assert arrays["sinks"][0] == 8.0
    assert np.isnan(arrays["sinks"][1])
    every = np.arange(TOKENS).mean()
    np.testing.assert_allclose(arrays["not_sinks"], [(4 * TOKENS * every - 7 - 9) / (4 * TOKENS - 2), 100 + every])


def test_the_first_token_counts_among_the_sinks(make_view, measured, causal_weights):
    arrays = measured("value_norm", make_view(causal_weights("first", 2, HEADS, TOKENS), v=values()))
    assert arrays["sinks"].tolist() == arrays["first"].tolist() == [0.0, 100.0]
    assert arrays["not_sinks"].tolist() == arrays["others"].tolist() == [12.0, 112.0]


@pytest.mark.parametrize("has_documents", [False, True])
def test_matches_a_loop(make_view, measured, causal_weights, packed_BT, documents, has_documents):
    document_BT = packed_BT if has_documents else None
    weights_BHTS = causal_weights("random", 2, HEADS, TOKENS, document_BT) ** 2
    v_BTGD = torch.randn(2, TOKENS, GROUPS, 3, generator=torch.Generator().manual_seed(1)).double()
    norms = {name: [[] for _ in range(GROUPS)] for name in ("first", "others", "sinks", "not_sinks")}
    for window, place in documents(packed_BT if has_documents else torch.zeros(2, TOKENS)):
        own_HTS = weights_BHTS[window, :, place, place].double().numpy()
        norm_TG = np.linalg.norm(v_BTGD[window, place].numpy(), axis=-1)
        for k in range(len(norm_TG)):
            for group in range(GROUPS):
                norms["first" if k == 0 else "others"][group].append(norm_TG[k, group])
            for head in range(HEADS):
                is_sink = own_HTS[head, k:, k].mean() > 5 / len(norm_TG)
                norms["sinks" if is_sink else "not_sinks"][head // 2].append(norm_TG[k, head // 2])
    arrays = measured("value_norm", make_view(weights_BHTS, document_BT, v=v_BTGD))
    for name, of_groups in norms.items():
        assert min(map(len, of_groups)) > 1
        np.testing.assert_allclose(arrays[name], [np.mean(of) for of in of_groups], rtol=1e-9, err_msg=name)


def test_nan_weights_leave_sinks_unknown(make_view, measured, causal_weights):
    weights_BHTS = causal_weights("first", 2, HEADS, TOKENS)
    weights_BHTS[0, 1, 5:, 5] = torch.nan
    arrays = measured("value_norm", make_view(weights_BHTS, v=values()))
    for name in ("sinks", "not_sinks"):
        assert np.isnan(arrays[name]).tolist() == [True, False]
    assert arrays["first"].tolist() == [0.0, 100.0]
