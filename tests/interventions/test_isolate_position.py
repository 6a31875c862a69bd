"""Isolating a position: its row of weights, everybody else's, and what is mixed.

Shapes use B batch, T query positions, S key positions, H heads, R rows.
"""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain import registry
from sinkpretrain.attention import base
from sinkpretrain.interventions.base import intervene
from sinkpretrain.model.llama import weight_rows
from sinkpretrain.taps import record

POSITION = 5


def weights_of(model, tokens_BT, layer, document_BT=None):
    return torch.cat([rows for _, rows in weight_rows(model, tokens_BT, layer, document_BT)], dim=2)


@pytest.mark.parametrize("kind", registry.names("attention.weights"))
@pytest.mark.parametrize("rows", [4, 256], ids=["blocks", "whole"])
def test_the_isolated_row_sees_itself_alone_and_later_rows_see_it(kind, rows, build, tokens_BT, monkeypatch):
    monkeypatch.setattr(base, "ROWS", rows)
    model = build({"weights": {"name": kind}})
    before_BHTS = weights_of(model, tokens_BT, 0)
    with intervene(model, "isolate_position", position=POSITION), record(model, "v", "mixed") as taps:
        after_BHTS = weights_of(model, tokens_BT, 0)
        model(tokens_BT)
    row_BHS = after_BHTS[:, :, POSITION]
    assert row_BHS[..., POSITION].min() > 0
    assert (row_BHS != 0).sum() == row_BHS[..., POSITION].numel(), "nothing elsewhere"
    others = [row for row in range(20) if row != POSITION]
    assert torch.equal(after_BHTS[:, :, others], before_BHTS[:, :, others])
    assert after_BHTS[:, :, POSITION + 1 :, POSITION].min() > 0
    v_BTHD = taps["v"][0].repeat_interleave(2, dim=2)
    assert_close(
        torch.einsum("bhts,bshd->bthd", after_BHTS, v_BTHD), taps["mixed"][0], msg="what is read is what is mixed"
    )


def test_chosen_layers_alone(model, tokens_BT):
    with intervene(model, "isolate_position", position=POSITION, layers=[1]):
        seen = [weights_of(model, tokens_BT, layer)[:, :, POSITION, :POSITION].sum() for layer in range(3)]
    assert [float(one) > 0 for one in seen] == [True, False, True]


def test_positions_are_of_each_document(model, tokens_BT, document_BT):
    with intervene(model, "isolate_position", position=2):
        weights_BHTS = weights_of(model, tokens_BT, 0, document_BT)
    alone = [(0, 2), (0, 10), (1, 2), (2, 2), (2, 7)]
    for window, query in alone:
        row_HS = weights_BHTS[window, :, query]
        assert_close(row_HS[:, query], torch.ones(4))
    assert weights_BHTS[2, :, 4, 3].min() > 0, "the second document of the last window ends before its position 2"
    assert weights_BHTS[0, :, 12, 10].min() > 0


def test_softmax_mixes_the_own_value_only(model, tokens_BT):
    with intervene(model, "isolate_position", position=POSITION), record(model, "v", "mixed") as taps:
        model(tokens_BT)
    for layer in range(3):
        assert_close(taps["mixed"][layer][:, POSITION], taps["v"][layer][:, POSITION].repeat_interleave(2, dim=1))
