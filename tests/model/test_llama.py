"""The model: documents and positions, what it refuses, the loss, blocks of its attention weights.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, V vocabulary.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain import registry
from sinkpretrain.attention import base
from sinkpretrain.errors import ConfigError
from sinkpretrain.model.llama import Llama, ModelConfig, next_token_loss, weight_rows
from sinkpretrain.taps import record

SIZES = dict(vocab_size=31, n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, d_ff=24, context_length=24)
ATTENTION = [{"weights": {"name": name}} for name in registry.names("attention.weights")]
ATTENTION += [{"output": [{"name": name}]} for name in registry.names("attention.output")]
ATTENTION += [
    {"weights": {"name": "sigmoid", "normalize": True}},
    {"weights": {"name": "sigmoid", "bias": "minus_log_context"}},
    {"weights": {"name": "kv_bias", "value": "learned"}},
]


def build(**changes):
    model = Llama(ModelConfig(**{**SIZES, **changes}))
    with torch.no_grad():
        for block in model.blocks:
            for projection in (block.attention.w_q, block.attention.w_k):
                projection.weight.mul_(20)  # attention far from uniform
    return model


def some_tokens(batch=2, tokens=20):
    return torch.randint(SIZES["vocab_size"], (batch, tokens), generator=torch.Generator().manual_seed(tokens))


@pytest.mark.parametrize("attention", ATTENTION, ids=str)
@pytest.mark.parametrize("rows", [256, 3], ids=["one block", "blocks"])
def test_a_packed_document_is_the_document_alone(attention, rows, monkeypatch):
    monkeypatch.setattr(base, "ROWS", rows)
    model = build(attention=attention)
    tokens_BT = some_tokens()
    cuts = [[0, 7, 8, 20], [0, 1, 15, 20]]  # documents of 1 to 14 tokens, cut differently in each row
    document_BT = torch.stack([torch.bucketize(torch.arange(20), torch.tensor(row[1:]), right=True) for row in cuts])
    packed_BTV = model(tokens_BT, document_BT)
    for row, (starts, ends) in enumerate((cut[:-1], cut[1:]) for cut in cuts):
        for first, last in zip(starts, ends, strict=True):
            assert_close(packed_BTV[row, first:last], model(tokens_BT[row : row + 1, first:last])[0])
    assert (packed_BTV - model(tokens_BT)).abs().max() > 1e-3, "the documents are told apart"


def test_one_document_is_no_documents():
    model, tokens_BT = build(), some_tokens()
    assert_close(model(tokens_BT, torch.zeros_like(tokens_BT)), model(tokens_BT))


def test_positions_count_from_each_documents_first_token():
    cpu = torch.device("cpu")
    assert base.Mask(6, cpu).position.tolist() == [0, 1, 2, 3, 4, 5]
    document_BT = torch.tensor([[0, 0, 0, 1, 1, 2], [3, 4, 4, 4, 4, 4]])
    assert base.Mask(6, cpu, document_BT).position.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


def test_what_cannot_be_built_or_read_is_refused():
    with pytest.raises(ConfigError, match=r"model\.vocab_size: is null"):
        Llama(ModelConfig())
    model = build()
    model(some_tokens(1, 24))
    with pytest.raises(ConfigError, match="25 tokens are more than the model's context length of 24"):
        model(some_tokens(1, 25))
    for layer in (2, -1):
        with pytest.raises(ConfigError, match=rf"layer {layer} is not one of 0 \.\. 1"):
            next(weight_rows(model, some_tokens(), layer))


def test_next_token_loss():
    logits_BTV = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    targets_BT = torch.tensor([[1, -100, 4], [0, 2, -100]])
    log_p_BTV = logits_BTV.double().log_softmax(dim=-1)
    expected = -sum(log_p_BTV[b, t, v] for b, t, v in ((0, 0, 1), (0, 2, 4), (1, 0, 0), (1, 1, 2)))
    assert_close(next_token_loss(logits_BTV, targets_BT), expected.float())
    uniform = next_token_loss(torch.zeros(1, 4, 7), torch.zeros(1, 4, dtype=torch.long))
    assert uniform.item() == pytest.approx(4 * math.log(7))
    assert next_token_loss(logits_BTV, torch.full((2, 3), -100)) == 0


def test_next_token_loss_of_narrow_logits_is_float32():
    """Summed in bfloat16, 512 tokens of loss would be off by whole nats."""
    logits_BTV = (3 * torch.randn(4, 128, 50, generator=torch.Generator().manual_seed(2))).bfloat16()
    targets_BT = torch.zeros(4, 128, dtype=torch.long)
    loss = next_token_loss(logits_BTV, targets_BT)
    assert loss.dtype == torch.float32
    assert_close(loss, -logits_BTV.double().log_softmax(dim=-1)[..., 0].sum().float())


@pytest.mark.parametrize("attention", ATTENTION, ids=str)
def test_weight_rows_are_what_mixes_the_values(attention, monkeypatch):
    monkeypatch.setattr(base, "ROWS", 6)
    model, tokens_BT = build(attention=attention), some_tokens()
    document_BT = (torch.arange(20) // 9).expand(2, -1)
    for documents in (None, document_BT):
        with record(model, "v", "mixed") as taps:
            model(tokens_BT, documents)
        for layer in range(2):
            blocks = list(weight_rows(model, tokens_BT, layer, documents))
            assert [first for first, _ in blocks] == [0, 6, 12, 18]
            weights_BHTS = torch.cat([weights_BHRS for _, weights_BHRS in blocks], dim=2)
            assert weights_BHTS.shape == (2, 4, 20, 20)
            assert not weights_BHTS.requires_grad
            mixed_BTHD = torch.einsum("bhts,bshd->bthd", weights_BHTS, taps["v"][layer].repeat_interleave(2, dim=2))
            value_HD = getattr(model.blocks[layer].attention.weights, "value_HD", None)
            if value_HD is not None:
                mixed_BTHD = mixed_BTHD + (1 - weights_BHTS.sum(dim=-1)).transpose(1, 2)[..., None] * value_HD
            assert_close(taps["mixed"][layer], mixed_BTHD)
    assert torch.is_grad_enabled()


def test_autocast_computes_scores_wide():
    """Under bfloat16 the logits are near the float32 ones, and the weights are float32."""
    model, tokens_BT = build(), some_tokens()
    expected_BTV = model(tokens_BT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BTV = model(tokens_BT)
        assert all(weights_BHRS.dtype == torch.float32 for _, weights_BHRS in weight_rows(model, tokens_BT, 0))
    assert logits_BTV.dtype == torch.bfloat16
    assert_close(logits_BTV.float(), expected_BTV, rtol=0, atol=0.05 * expected_BTV.abs().max().item())  # 8 bits
    assert (logits_BTV.float() - expected_BTV).abs().max() > 0, "autocast was on"


def test_state_dict_round_trip_is_exact():
    first, second = build(tie_embeddings=True), Llama(ModelConfig(**SIZES, tie_embeddings=True), seed=9)
    assert not torch.equal(first(some_tokens()), second(some_tokens()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(some_tokens()), second(some_tokens()))
