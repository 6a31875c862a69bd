"""Each kind of weights against its definition, written here again with NumPy loops in float64.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, G key-value heads,
D head size.
"""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.attention import base
from sinkpretrain.attention.base import Mask


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax_row(scores, extra=None):
    """exp(s) over the sum of all, an extra logit's share in the sum included."""
    logits = scores if extra is None else [*scores, extra]
    exponentials = [math.exp(logit) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials[: len(scores)]]


def sigmoid_row(scores, options, context_length):
    bias = {"zero": 0.0, "minus_log_context": -math.log(context_length)}[options["bias"]]
    row = [sigmoid(score + bias) for score in scores]
    return [weight / sum(row) for weight in row] if options["normalize"] else row


def key_logit(query_D, parameters, head):
    return float(query_D @ parameters["key_HD"][head]) / math.sqrt(len(query_D))


# One row of weights: (scores of the visible keys, query, head, parameters, options, context length) -> weights.
ROW = {
    "softmax": lambda s, q, h, p, o, n: softmax_row(s),
    "softmax_off_by_one": lambda s, q, h, p, o, n: softmax_row(s, 0.0),
    "learned_sink": lambda s, q, h, p, o, n: softmax_row(s, float(p["sink_H"][h])),
    "kv_bias": lambda s, q, h, p, o, n: softmax_row(s, key_logit(q, p, h)),
    "sigmoid": lambda s, q, h, p, o, n: sigmoid_row(s, o, n),
}


def reference(module, entry, q_BTHD, k_BTGD, v_BTGD, document_BT=None):
    """The weights and the mixed values, one number at a time."""
    q, k, v = (x.detach().double().numpy() for x in (q_BTHD, k_BTGD, v_BTGD))
    parameters = {name: parameter.detach().double().numpy() for name, parameter in module.named_parameters()}
    batch, tokens, heads, size = q.shape
    weights_BHTS, mixed_BTHD = np.zeros((batch, heads, tokens, tokens)), np.zeros(q.shape)
    for b, h, i in np.ndindex(batch, heads, tokens):
        g = h // (heads // k.shape[2])
        seen = [j for j in range(i + 1) if document_BT is None or document_BT[b, j] == document_BT[b, i]]
        scores = [sum(q[b, i, h, d] * k[b, j, g, d] for d in range(size)) / math.sqrt(size) for j in seen]
        row = ROW[entry["name"]](scores, q[b, i, h], h, parameters, entry, module.shape.context_length)
        for j, weight in zip(seen, row, strict=True):
            weights_BHTS[b, h, i, j] = weight
            mixed_BTHD[b, i, h] += weight * v[b, j, g]
        if "value_HD" in parameters:
            mixed_BTHD[b, i, h] += (1 - sum(row)) * parameters["value_HD"][h]
    return torch.from_numpy(weights_BHTS), torch.from_numpy(mixed_BTHD)


def inputs(tokens, heads=4, groups=2, size=6, batch=2, dtype=torch.float64, scale=1.5):
    generator = torch.Generator().manual_seed(tokens + heads)
    return [
        (scale * torch.randn(batch, tokens, count, size, generator=generator, dtype=torch.float64)).to(dtype)
        for count in (heads, groups, groups)
    ]


def documents(tokens):
    """Two ways to cut a window into documents, one of them with documents of a single token."""
    first, second = torch.arange(tokens) // 4, (torch.arange(tokens) > 0).long() + (torch.arange(tokens) > tokens - 3)
    return torch.stack([first, second])


def whole(module, q_BTHD, k_BTGD, mask):
    """All blocks of the weights put together."""
    return torch.cat([weights_BHRS for _, weights_BHRS in module.rows(q_BTHD, k_BTGD, mask)], dim=2)


@pytest.mark.parametrize("packed", [False, True], ids=["one document", "packed"])
@pytest.mark.parametrize(("tokens", "heads", "groups"), [(1, 4, 2), (7, 3, 3), (13, 6, 2), (11, 4, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_definition(weights_entry, build_kind, tokens, heads, groups, packed, dtype, monkeypatch):
    monkeypatch.setattr(base, "ROWS", 5)
    module = build_kind("attention.weights", weights_entry, n_heads=heads, kv_heads=groups).to(dtype)
    q_BTHD, k_BTGD, v_BTGD = inputs(tokens, heads, groups, dtype=dtype)
    document_BT = documents(tokens) if packed else None
    mask = Mask(tokens, q_BTHD.device, document_BT)

    expected_weights, expected_mixed = reference(module, weights_entry, q_BTHD, k_BTGD, v_BTGD, document_BT)

    assert_close(whole(module, q_BTHD, k_BTGD, mask), expected_weights.to(dtype))
    assert_close(module.mix_explicit(q_BTHD, k_BTGD, v_BTGD, mask), expected_mixed.to(dtype))


def test_every_option_changes_the_weights(build_kind):
    """An option that is read but ignored would pass as its own default."""
    q_BTHD, k_BTGD, v_BTGD = inputs(9)
    mask = Mask(9, q_BTHD.device)
    seen = []
    for entry in (
        {"name": "sigmoid"},
        {"name": "sigmoid", "normalize": True},
        {"name": "sigmoid", "bias": "minus_log_context"},
        {"name": "sigmoid", "bias": "minus_log_context", "normalize": True},
        {"name": "kv_bias"},
        {"name": "kv_bias", "value": "learned"},
    ):
        seen.append(build_kind("attention.weights", entry).double().mix(q_BTHD, k_BTGD, v_BTGD, mask))
    for index, first in enumerate(seen):
        assert all((first - second).abs().max() > 1e-3 for second in seen[index + 1 :])


@pytest.mark.parametrize("rows", [1, 4, 5, 100])
def test_rows_are_the_whole_weights(weights_entry, build_kind, rows, monkeypatch):
    module = build_kind("attention.weights", weights_entry).double()
    q_BTHD, k_BTGD, _ = inputs(13)
    for mask in (Mask(13, q_BTHD.device), Mask(13, q_BTHD.device, documents(13))):
        monkeypatch.setattr(base, "ROWS", 13)
        ((first, at_once_BHTS),) = module.rows(q_BTHD, k_BTGD, mask)
        assert first == 0
        monkeypatch.setattr(base, "ROWS", rows)
        blocks = list(module.rows(q_BTHD, k_BTGD, mask))
        assert [first for first, _ in blocks] == list(range(0, 13, rows))
        assert all(weights_BHRS.shape[2:] == (min(rows, 13 - first), 13) for first, weights_BHRS in blocks)
        assert_close(torch.cat([weights_BHRS for _, weights_BHRS in blocks], dim=2), at_once_BHTS)


def test_mass_and_zeros(weights_entry, build_kind):
    module = build_kind("attention.weights", weights_entry)
    q_BTHD, k_BTGD, _ = inputs(13, dtype=torch.float32)
    for mask in (Mask(13, q_BTHD.device), Mask(13, q_BTHD.device, documents(13))):
        weights_BHTS = whole(module, q_BTHD, k_BTGD, mask)
        visible = mask.visible(0, 13).expand(2, 1, 13, 13).expand_as(weights_BHTS)
        assert (weights_BHTS[~visible] == 0).all()
        assert (weights_BHTS[visible] > 0).all()
        mass_BHT = weights_BHTS.sum(dim=-1)
        assert_close(mass_BHT, torch.ones_like(mass_BHT)) if module.rows_sum_to_one else None
        assert module.rows_sum_to_one or (mass_BHT - 1).abs().max() > 0.01


def test_mask_of_documents():
    mask = Mask(4, torch.device("cpu"), torch.tensor([[0, 0, 1, 1]]))
    seen = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask.visible(0, 4)[0, 0].int().tolist() == seen
    assert mask.visible(1, 3)[0, 0].int().tolist() == [row[:3] for row in seen[1:3]]
    assert not mask.is_causal_only
    assert mask.dense is mask.dense
