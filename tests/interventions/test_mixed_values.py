"""Amplified variance and its controls, in closed form.

Shapes use B batch, T positions, H heads, D head size, N sequences.
"""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.interventions.base import intervene
from sinkpretrain.taps import record

POSITION, LAYER = 6, 1


def mixed(model, tokens_BT, document_BT=None):
    with record(model, "mixed") as taps:
        model(tokens_BT, document_BT)
    return taps["mixed"]


def intervened(model, tokens_BT, name, document_BT=None, **options):
    with intervene(model, name, layer=LAYER, position=POSITION, **options):
        return mixed(model, tokens_BT, document_BT)


def test_amplifying_moves_away_from_the_mean_of_batch_and_positions(model, tokens_BT):
    before, after = mixed(model, tokens_BT), intervened(model, tokens_BT, "amplify_variance", strength=7.0)
    mean_HD = before[LAYER].double().mean(dim=(0, 1))
    expected_NHD = mean_HD + 7.0 * (before[LAYER][:, POSITION].double() - mean_HD)
    assert_close(after[LAYER][:, POSITION].double(), expected_NHD, rtol=1e-5, atol=1e-6)
    variance = [found[LAYER][:, POSITION].var(dim=0) for found in (before, after)]
    assert_close(variance[1], 49 * variance[0])


@pytest.mark.parametrize("name", ["amplify_variance", "scale_norm", "random_direction"])
def test_only_the_position_of_the_layer_changes(name, model, tokens_BT):
    before, after = mixed(model, tokens_BT), intervened(model, tokens_BT, name, strength=7.0)
    others = [t for t in range(20) if t != POSITION]
    assert torch.equal(after[LAYER][:, others], before[LAYER][:, others])
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[2], before[2])


def test_scaling_keeps_the_direction(model, tokens_BT):
    before, after = mixed(model, tokens_BT), intervened(model, tokens_BT, "scale_norm", strength=7.0)
    assert_close(after[LAYER][:, POSITION], 7.0 * before[LAYER][:, POSITION])


def test_the_random_change_is_as_long_as_the_amplification(model, tokens_BT):
    before = mixed(model, tokens_BT)[LAYER][:, POSITION]
    amplified = intervened(model, tokens_BT, "amplify_variance", strength=7.0)[LAYER][:, POSITION]
    pushed = intervened(model, tokens_BT, "random_direction", strength=6.0, seed=1)[LAYER][:, POSITION]
    assert_close((pushed - before).norm(dim=-1), (amplified - before).norm(dim=-1), rtol=1e-4, atol=1e-6)
    again = intervened(model, tokens_BT, "random_direction", strength=6.0, seed=1)[LAYER][:, POSITION]
    other = intervened(model, tokens_BT, "random_direction", strength=6.0, seed=2)[LAYER][:, POSITION]
    assert torch.equal(pushed, again)
    assert not torch.equal(pushed, other)
    cosine_NH = torch.cosine_similarity(pushed - before, amplified - before, dim=-1)
    assert cosine_NH.abs().max() < 0.999, "another direction"


def test_positions_are_of_each_document(model, tokens_BT, document_BT):
    before = mixed(model, tokens_BT, document_BT)[LAYER]
    after = intervened(model, tokens_BT, "scale_norm", document_BT, strength=2.0)[LAYER]
    changed = {(int(window), int(t)) for window, t in (after != before).any(dim=(2, 3)).nonzero()}
    assert changed == {(0, 6), (0, 14), (1, 6), (2, 11)}
