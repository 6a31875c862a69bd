"""An intervention that never fired says so, and one that did does not.

Shapes use B batch, T positions.
"""

import warnings
from contextlib import contextmanager

import pytest
import torch
from test_every_intervention import NAMES, NEUTRAL, STRONG

import sinkpretrain as sp
from sinkpretrain import registry
from sinkpretrain.interventions import base
from sinkpretrain.interventions.base import NothingChanged, intervene
from sinkpretrain.taps import Tap


@contextmanager
def said(match):
    """Exactly one warning of this kind, from the line of the `with` statement."""
    with pytest.warns(NothingChanged, match=match) as found:
        yield
    assert [warning.filename for warning in found] == [__file__]


@contextmanager
def silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingChanged)
        yield


@pytest.mark.parametrize("documents", [False, True], ids=["one document", "documents"])
@pytest.mark.parametrize("name", NAMES)
def test_what_fires_is_silent(name, documents, model, tokens_BT, document_BT):
    with silence(), intervene(model, name, **STRONG[name]) as effect:
        assert (effect.passes, effect.changed) == (0, False)
        model(tokens_BT, document_BT if documents else None)
        model(tokens_BT)
    assert (effect.passes, effect.changed) == (2, True)
    assert effect.why_nothing() == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_neutral_strength_is_said(name, model, tokens_BT):
    with (
        said(f"{name} changed nothing, forward passes: 2; (its strength is the neutral one|it has nothing to act on)"),
        intervene(model, name, **NEUTRAL[name]),
    ):
        model(tokens_BT)
        model(tokens_BT)


@pytest.mark.parametrize("name", [name for name in NAMES if "position" in STRONG[name]])
def test_a_position_that_no_document_reaches_is_said(name, model, tokens_BT):
    options = STRONG[name] | {"position": 7}
    short_BT = (torch.arange(20) // 7).expand(3, -1)
    with (
        said(f"{name} changed nothing, forward passes: 1; .*no document is long enough"),
        intervene(model, name, **options),
    ):
        model(tokens_BT, short_BT)
    long_BT = (torch.arange(20) // 8).expand(3, -1)
    with silence(), intervene(model, name, **options):
        model(tokens_BT, short_BT)
        model(tokens_BT, long_BT)


def test_isolating_the_first_position_is_said(model, tokens_BT):
    with (
        said("isolate_position changed nothing.*position 0 sees only itself"),
        intervene(model, "isolate_position", position=0),
    ):
        model(tokens_BT)


@pytest.mark.parametrize("name", ["ablate_super_neurons", "densify_down_projection"])
@pytest.mark.parametrize("choose", ["flagged", "random"])
def test_no_flagged_neuron_is_said(name, choose, model, tokens_BT):
    with (
        said(f"{name} changed nothing, forward passes: 1; it has nothing to act on: no layers, or no super neuron"),
        sp.intervene(model, name, layers=[1], choose=choose),
    ):
        model(tokens_BT)


@pytest.mark.parametrize("name", NAMES)
def test_no_pass_and_a_pass_of_another_model_are_said(name, model, build, tokens_BT):
    other = build()
    with (
        said(f"{name} changed nothing, forward passes: 0; no forward pass of this model was made"),
        intervene(model, name, **STRONG[name]),
    ):
        other(tokens_BT)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "isolate_position"])
def test_taps_that_a_pass_avoids_are_said(name, model, tokens_BT, monkeypatch):
    """As where a tap was renamed, or another code path taken."""
    forward = Tap.forward
    kept = ("resid_in",)
    monkeypatch.setattr(Tap, "forward", lambda tap, x: forward(tap, x) if tap.name in kept else x)
    with said(f"{name} changed nothing, forward passes: 1; .*avoid the taps"), intervene(model, name, **STRONG[name]):
        model(tokens_BT)


def test_a_compiled_model_is_intervened_on(model, tokens_BT):
    before_BTV = model(tokens_BT)
    model.compile(backend="eager")
    model(tokens_BT)
    with silence(), intervene(model, "isolate_position", position=4):
        assert not torch.equal(model(tokens_BT), before_BTV)


def test_an_error_inside_is_not_hidden_by_a_warning(model):
    with silence(), pytest.raises(KeyError), intervene(model, "isolate_position", position=0):
        raise KeyError


def test_nested_interventions_speak_for_themselves(model, tokens_BT):
    with (
        silence(),
        intervene(model, "scale_norm", position=2, strength=4.0),
        pytest.warns(NothingChanged, match="amplify_variance"),
        intervene(model, "amplify_variance", position=2, strength=1.0),
    ):
        model(tokens_BT)
    with (
        pytest.warns(NothingChanged, match="scale_norm"),
        intervene(model, "scale_norm", position=2, strength=1.0),
        intervene(model, "isolate_position", position=5),
    ):
        model(tokens_BT)


def test_an_intervention_that_is_not_applied_is_said(model, tokens_BT, monkeypatch):
    """A new file whose `applied_to` does nothing."""

    @contextmanager
    def nothing(intervention, model):
        yield

    monkeypatch.setattr(registry.load("interventions", "scale_norm"), "applied_to", nothing)
    with (
        said("scale_norm changed nothing, forward passes: 1; it has nothing to act on"),
        intervene(model, "scale_norm", position=2, strength=4.0),
    ):
        model(tokens_BT)


def test_watching_changes_and_keeps_nothing(model, tokens_BT, monkeypatch):
    """The values are those of the intervention alone, and leaving takes the watchers away."""
    with intervene(model, "amplify_variance", position=4, strength=3.0):
        watched_BTV = model(tokens_BT)
    chains = [module.watchers for module in model.modules() if isinstance(module, Tap)]
    chains += [base.weights_of(model, layer).mask_edits for layer in range(3)]
    assert not any(chains)
    made = registry.load("interventions", "amplify_variance")
    options = registry.build_options("interventions", "amplify_variance", {"position": 4, "strength": 3.0}, "test")
    with made(options).applied_to(model):
        assert torch.equal(model(tokens_BT), watched_BTV)
