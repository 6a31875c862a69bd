"""What every intervention of the registry must keep: neutral, and after leaving, the model is the same bit for bit.

Shapes use B batch, T positions.
"""

import pytest
import torch

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError
from sinkpretrain.interventions.base import intervene

NAMES = registry.names("interventions")
NEUTRAL = {
    "isolate_position": {"position": 4, "layers": []},
    "amplify_variance": {"position": 4, "layer": 1, "strength": 1.0},
    "scale_norm": {"position": 4, "layer": 1, "strength": 1.0},
    "random_direction": {"position": 4, "layer": 1, "strength": 0.0},
    "ablate_super_neurons": {"strength": 0.0},
    "densify_down_projection": {"strength": 0.0},
}
STRONG = {
    "isolate_position": {"position": 4},
    "amplify_variance": {"position": 4, "layer": 1, "strength": 3.0},
    "scale_norm": {"position": 4, "layer": 1, "strength": 3.0},
    "random_direction": {"position": 4, "layer": 1, "strength": 2.0},
    "ablate_super_neurons": {},
    "densify_down_projection": {},
}
ATTENTION = [
    *({"weights": {"name": name}} for name in registry.names("attention.weights")),
    *({"output": [{"name": name}]} for name in registry.names("attention.output")),
]


def test_every_intervention_is_here():
    assert set(NAMES) == set(NEUTRAL) == set(STRONG)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ATTENTION, ids=str)
def test_neutral_is_the_identity_and_leaving_restores(name, attention, build, tokens_BT, document_BT):
    model = build(attention)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for documents in (None, document_BT):
        before_BTV = model(tokens_BT, documents)
        with intervene(model, name, **NEUTRAL[name]):
            assert torch.equal(model(tokens_BT, documents), before_BTV)
        with intervene(model, name, **STRONG[name]):
            changed_BTV = model(tokens_BT, documents)
        # Only the length changes, which head-wise RMSNorm takes out again.
        is_undone = name == "scale_norm" and attention == {"output": [{"name": "head_rmsnorm"}]}
        assert torch.allclose(changed_BTV, before_BTV, atol=1e-3) == is_undone
        assert torch.equal(model(tokens_BT, documents), before_BTV)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_an_error_inside_restores_too(name, model, tokens_BT):
    before_BTV = model(tokens_BT)
    with pytest.raises(KeyError), intervene(model, name, **STRONG[name]):
        raise KeyError
    assert torch.equal(model(tokens_BT), before_BTV)


@pytest.mark.parametrize("name", NAMES)
def test_nested_interventions_leave_in_order(name, model, tokens_BT):
    before_BTV = model(tokens_BT)
    with intervene(model, "scale_norm", position=2, strength=4.0):
        once_BTV = model(tokens_BT)
        with intervene(model, name, **STRONG[name]):
            assert not torch.equal(model(tokens_BT), once_BTV)
        assert torch.equal(model(tokens_BT), once_BTV)
    assert torch.equal(model(tokens_BT), before_BTV)


@pytest.mark.parametrize("name", [name for name in NAMES if "position" in STRONG[name]])
def test_earlier_positions_do_not_notice(name, model, tokens_BT):
    before_BTV = model(tokens_BT)
    with intervene(model, name, **STRONG[name]):
        after_BTV = model(tokens_BT)
    assert torch.equal(after_BTV[:, :4], before_BTV[:, :4])
    assert (after_BTV[:, 5:] - before_BTV[:, 5:]).abs().amax(dim=(0, 2)).min() > 0, "later ones do"


@pytest.mark.parametrize("name", NAMES)
def test_wrong_options_are_refused_with_what_is_allowed(name, model, tokens_BT):
    with pytest.raises(ConfigError, match="has no such option; it has"), intervene(model, name, postion=3):
        pass
    wrong = (
        {"layers": [7]}
        if "layers" in vars(registry.load("interventions", name).Options)["__dataclass_fields__"]
        else {"layer": 7}
    )
    options = {key: value for key, value in STRONG[name].items() if key not in ("layer", "layers")}
    with (
        pytest.raises(ConfigError, match="layer: 7 is out of range; allowed: 0 .. 2"),
        intervene(model, name, **options, **wrong),
    ):
        model(tokens_BT)


@pytest.mark.parametrize("name", [name for name in NAMES if "position" in STRONG[name]])
def test_positions_outside_the_text_are_refused(name, model, tokens_BT):
    with pytest.raises(ConfigError, match="position: is missing"), intervene(model, name):
        pass
    with pytest.raises(ConfigError, match="position: -1 is out of range"), intervene(model, name, position=-1):
        pass
    with pytest.raises(ConfigError, match=r"position: 20 .* 0 .. 19"), intervene(model, name, position=20):
        model(tokens_BT)


def test_an_unknown_intervention_is_refused_with_those_there_are(model):
    with pytest.raises(ConfigError, match="isolate_position"), intervene(model, "isolate"):
        pass
