"""Silenced and densified neurons against a model whose weights say the same.

Shapes use B batch, T positions, C model width, F feed-forward neurons.
"""

import math

import pytest
import torch
from planted import SUPER
from torch.testing import assert_close

from sinkpretrain.errors import ConfigError
from sinkpretrain.interventions.base import NeuronOptions, chosen_neurons, intervene
from sinkpretrain.interventions.densify_down_projection import dense
from sinkpretrain.taps import record


def test_the_planted_neurons_are_the_flagged_ones(model):
    assert chosen_neurons(model, NeuronOptions()) == SUPER
    assert chosen_neurons(model, NeuronOptions(layers=[1, 2])) == {2: SUPER[2]}
    assert chosen_neurons(model, NeuronOptions(layers=[])) == {}


def test_random_neurons_are_as_many_others_of_the_same_layers(model):
    drawn = [chosen_neurons(model, NeuronOptions(choose="random", seed=seed)) for seed in range(20)]
    for one in drawn:
        assert {layer: len(neurons) for layer, neurons in one.items()} == {0: 2, 2: 1}
        assert not any(set(neurons) & set(SUPER[layer]) for layer, neurons in one.items())
    assert len({str(one) for one in drawn}) > 10
    assert drawn[3] == chosen_neurons(model, NeuronOptions(choose="random", seed=3))


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_ablation_is_a_model_whose_columns_are_scaled(strength, model, build, tokens_BT):
    edited = build()
    with torch.no_grad():
        for layer, neurons in SUPER.items():
            edited.blocks[layer].mlp.w_down.weight[:, neurons] *= 1 - strength
    with intervene(model, "ablate_super_neurons", strength=strength), record(model, "mlp_hidden") as taps:
        assert_close(model(tokens_BT), edited(tokens_BT), rtol=1e-4, atol=1e-4)
    assert (taps["mlp_hidden"][0][..., SUPER[0]] == 0).all() == (strength == 1.0)


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_densifying_is_a_model_with_those_columns(strength, model, build, tokens_BT):
    edited = build()
    with torch.no_grad():
        for layer, neurons in SUPER.items():
            down_CN = edited.blocks[layer].mlp.w_down.weight[:, neurons]
            edited.blocks[layer].mlp.w_down.weight[:, neurons] = down_CN + strength * (dense(down_CN) - down_CN)
    with intervene(model, "densify_down_projection", strength=strength):
        densified_BTV = model(tokens_BT)
    assert_close(densified_BTV, edited(tokens_BT), rtol=1e-4, atol=1e-4)


def test_dense_columns_keep_norm_and_signs_and_lose_sparsity():
    down_CN = torch.tensor([[3.0, 0.0], [-4.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    expected = torch.tensor(
        [[2.5, math.sqrt(3) / 2], [-2.5, math.sqrt(3) / 2], [2.5, -math.sqrt(3) / 2], [2.5, math.sqrt(3) / 2]]
    )
    assert_close(dense(down_CN), expected)


def test_controls_change_something_else(model, tokens_BT):
    for name in ("ablate_super_neurons", "densify_down_projection"):
        found = []
        for choose in ("flagged", "random"):
            with intervene(model, name, choose=choose):
                found.append(model(tokens_BT))
        assert not torch.allclose(*found)


@pytest.mark.parametrize("name", ["ablate_super_neurons", "densify_down_projection"])
def test_the_change_is_at_the_chosen_tokens_alone(name, model, tokens_BT, document_BT):
    def mlp_out(**options):
        with intervene(model, name, **options, layers=[0]), record(model, "mlp_out") as taps:
            model(tokens_BT, document_BT)
        return taps["mlp_out"][0]

    starts = torch.zeros_like(document_BT, dtype=torch.bool)
    for window, first in ((0, 0), (0, 8), (1, 0), (2, 0), (2, 3), (2, 5)):
        starts[window, first] = True
    untouched, everywhere = mlp_out(strength=0.0), mlp_out()
    for at, chosen_BT in (("first", starts), ("others", ~starts)):
        changed = mlp_out(at=at)
        assert torch.equal(changed[~chosen_BT], untouched[~chosen_BT])
        assert_close(changed[chosen_BT], everywhere[chosen_BT])
        assert (changed[chosen_BT] != untouched[chosen_BT]).any(dim=-1).all()


def test_wrong_choices_are_refused(model):
    with pytest.raises(ConfigError, match="flagged, random"), intervene(model, "ablate_super_neurons", choose="all"):
        pass
    with pytest.raises(ConfigError, match="strength: 1.5 is out of range"):
        NeuronOptions(strength=1.5)
