"""The summary of attention against its definition on whole matrices.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close


@pytest.mark.parametrize("has_documents", [False, True])
def test_matches_whole_matrices(make_view, causal_weights, packed_BT, documents, has_documents):
    document_BT = packed_BT if has_documents else None
    weights_BHTS = causal_weights("random", 2, 3, 24, document_BT)
    attention = make_view(weights_BHTS, document_BT).attention
    for window, place in documents(packed_BT if has_documents else torch.zeros(2, 24)):
        raw_HTS = weights_BHTS[window, :, place, place].double().numpy()
        normalised_HTS = raw_HTS / raw_HTS.sum(axis=-1, keepdims=True)
        logs_HTS = np.log(normalised_HTS, where=normalised_HTS > 0, out=np.zeros_like(normalised_HTS))
        expected = {
            "first_BHT": raw_HTS[:, :, 0],
            "first_normalised_BHT": normalised_HTS[:, :, 0],
            "mass_BHT": raw_HTS.sum(axis=-1),
            "entropy_BHT": -(normalised_HTS * logs_HTS).sum(axis=-1),
            "received_BHS": raw_HTS.sum(axis=1),
            "received_normalised_BHS": normalised_HTS.sum(axis=1),
            "score_BHS": [[raw_HTS[h, k:, k].mean() for k in range(raw_HTS.shape[1])] for h in range(3)],
            "score_normalised_BHS": [
                [normalised_HTS[h, k:, k].mean() for k in range(raw_HTS.shape[1])] for h in range(3)
            ],
        }
        for name, value in expected.items():
            assert_close(getattr(attention, name)[window, :, place], torch.tensor(np.array(value), dtype=torch.float32))


def test_entropy_is_in_nats(make_view, causal_weights):
    entropy_BHT = make_view(causal_weights("uniform", 1, 1, 8)).attention.entropy_BHT
    assert_close(entropy_BHT[0, 0], torch.tensor([math.log(t + 1) for t in range(8)]))


def test_row_without_mass_is_left_out_of_normalised_scores(make_view, causal_weights):
    weights_BHTS = causal_weights("first", 1, 1, 4) * 0.5
    weights_BHTS[0, 0, 2] = 0.0
    attention = make_view(weights_BHTS).attention
    assert_close(attention.score_BHS[0, 0, 0], torch.tensor(0.5 * 3 / 4))
    assert_close(attention.score_normalised_BHS[0, 0, 0], torch.tensor(1.0))
    assert attention.queries_normalised_BHS[0, 0].tolist() == [3, 2, 1, 1]
    assert attention.first_normalised_BHT[0, 0].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_nan_weights_stay_nan(make_view, causal_weights):
    weights_BHTS = causal_weights("uniform", 1, 1, 4)
    weights_BHTS[0, 0, 3] = torch.nan
    attention = make_view(weights_BHTS).attention
    assert attention.first_normalised_BHT[0, 0, 3].isnan()
    assert attention.score_normalised_BHS[0, 0].isnan().all()
