"""Experiments with interventions: what a row says against what the model does, controls, samples, refusals.

Shapes use B batch, T positions, H heads.
"""

import json
import math

import numpy as np
import pytest
import torch

import sinkpretrain as sp
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.intervening.experiment import SWEEPS, Experiment, conditions, run_experiment
from sinkpretrain.intervening.reading import Condition, read_condition
from sinkpretrain.intervening.table import table
from sinkpretrain.interventions.base import intervene
from sinkpretrain.model.llama import next_token_loss
from sinkpretrain.runs import Run
from sinkpretrain.subject import TextRequest, open_subject

POSITION, TOKENS = 5, 16


@pytest.fixture
def subject(small_run, tmp_path):
    """The small run with its record in a folder of the test's own."""
    from dataclasses import replace

    subject = open_subject(small_run, 12, TextRequest(tokens=TOKENS))
    run = Run(tmp_path / "run")
    run.create(small_run.config())
    return replace(subject, run=run)


def experiment(name="isolate_position", **changes):
    given = dict(positions=[POSITION], layers=None, strengths=[1.0], seeds=2, sequences=4)
    return Experiment(name=name, **given | changes)


def plant_super_neuron(model):
    with torch.no_grad():
        for matrix in (model.blocks[1].mlp.w_gate.weight, model.blocks[1].mlp.w_up.weight):
            matrix[9] *= 40


@pytest.mark.parametrize("name", ["none", "isolate_position"])
def test_a_row_says_what_the_model_does(name, subject):
    batch = subject.windows.batch(subject.windows.ids(0, 4))
    kind = None if name == "none" else name
    condition = Condition(name=name, kind=kind, options={} if kind is None else {"position": POSITION})
    row = read_condition(subject.model, condition, batch, POSITION)
    model = subject.model
    scope = intervene(model, name, position=POSITION) if kind else torch.no_grad()
    with scope, torch.no_grad(), sp.record(model, "resid_out", "mlp_hidden") as taps:
        weights = [torch.cat([w for _, w in sp.weight_rows(model, batch.tokens_BT, layer)], 2) for layer in range(2)]
        nats = next_token_loss(model(batch.tokens_BT), batch.targets_BT)
    weights_LBHTS = torch.stack(weights).double()
    scores = [weights_LBHTS[..., k:, k].mean() for k in range(TOKENS)]
    later = torch.arange(1, TOKENS)
    assert row["received"] == pytest.approx(float(scores[POSITION]), rel=1e-5)
    assert row["received_raw"] == pytest.approx(row["received"])
    np.testing.assert_allclose(row["score_by_position"], scores, rtol=1e-5)
    assert row["first_token_attention"] == pytest.approx(float(weights_LBHTS[..., 1:, 0].mean()), rel=1e-5)
    by_layer = weights_LBHTS[..., POSITION:, POSITION].mean(dim=(1, 2, 3))
    np.testing.assert_allclose(row["score_by_layer"], by_layer, rtol=1e-5)
    sinks = (weights_LBHTS[..., POSITION:, POSITION].mean(dim=-1) > 0.3).double().mean()
    assert row["sink_rate"] == pytest.approx(float(sinks))
    size_LBTC = torch.stack([taps["resid_out"][layer] for layer in range(2)]).abs()
    dominance_LT = (size_LBTC.amax(-1) / size_LBTC.mean(-1)).mean(dim=1)
    assert row["dominance"] == pytest.approx(float(dominance_LT[:, POSITION].max()), rel=1e-5)
    assert row["dominance_first"] == pytest.approx(float(dominance_LT[:, 0].max()), rel=1e-5)
    peak_LT = torch.stack([taps["mlp_hidden"][layer] for layer in range(2)]).abs().amax(-1).mean(dim=1)
    assert row["neuron_peak"] == pytest.approx(float(peak_LT[:, POSITION].max()), rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(nats / batch.targets_BT.numel()), rel=1e-5)
    entropy_LBHT = torch.special.entr(weights_LBHTS).sum(-1)
    others = later[later != POSITION]
    assert row["entropy_others"] == pytest.approx(float(entropy_LBHT[..., others].mean()), rel=1e-5)


def test_the_record_holds_every_condition_of_every_sample(subject):
    told = []
    record = run_experiment(subject, experiment(positions=[3, POSITION]), lambda *of: told.append(of))
    assert record == json.loads(subject.run.intervention_path("isolate_position").read_text())
    assert subject.run.interventions() == ["isolate_position"]
    found = [(row["seed"], row["position"], row["condition"]) for row in record["rows"]]
    assert found == [(s, p, c) for s in (0, 1) for p in (3, POSITION) for c in ("none", "isolate_position")]
    assert len(told) == 8
    assert {(row["condition"], row["changed"]) for row in record["rows"]} == {
        ("none", False),
        ("isolate_position", True),
    }
    assert record["about"]["changed_nothing"] == []
    assert "!" not in table(record)
    assert record["about"]["position"] == 3
    assert record["about"]["seeds"] == [0, 1]
    first, second = (row["perplexity"] for row in record["rows"] if row["condition"] == "none" and row["position"] == 3)
    assert first != second, "samples of text differ"
    text = table(record)
    assert "isolate_position 1 at 5" in text
    assert f"{np.mean([first, second]):.3g}" in text


def test_amplification_has_its_controls_at_equal_size():
    swept = experiment("amplify_variance", layers=[1], strengths=[1.0, 4.0])
    every = list(conditions(swept, POSITION, seed=3))
    assert [(one.name, one.strength) for one in every] == [
        ("none", None),
        ("amplify_variance", 1.0),
        ("scale_norm", 1.0),
        ("random_direction", 0.0),
        ("amplify_variance", 4.0),
        ("scale_norm", 4.0),
        ("random_direction", 3.0),
    ]
    assert every[-1].options == {"position": POSITION, "layer": 1, "strength": 3.0, "seed": 3}
    alone = experiment("amplify_variance", layers=[1], strengths=[4.0], controls=False)
    assert [one.name for one in conditions(alone, POSITION, 0)] == ["none", "amplify_variance"]


@pytest.mark.parametrize(
    ("name", "control"), [("ablate_super_neurons", "random_neurons"), ("densify_down_projection", "random_densified")]
)
def test_neurons_have_random_ones_beside_them(name, control, subject):
    plant_super_neuron(subject.model)
    record = run_experiment(subject, experiment(name, positions=[0], at="others"))
    assert record["about"]["neurons"] == {"1": [9]}
    assert record["about"]["at"] == "others"
    assert "at all tokens but the first: means" in table(record)
    assert {row["condition"] for row in record["rows"]} == {"none", name, control}
    by_name = {row["condition"]: row for row in record["rows"] if row["seed"] == 0}
    change = {key: abs(by_name[key]["perplexity"] - by_name["none"]["perplexity"]) for key in (name, control)}
    assert change[name] > change[control]


def test_without_super_neurons_there_is_nothing_to_ablate(subject):
    with pytest.raises(ConfigError, match=r"has no super neuron .* in layers 0, 1; there is nothing"):
        run_experiment(subject, experiment("ablate_super_neurons"))
    assert not subject.run.interventions()


def test_neutral_strengths_move_nothing_and_it_is_said(subject, caplog):
    record = run_experiment(subject, experiment("amplify_variance", layers=[0], strengths=[1.0]))
    every = ["amplify_variance", "scale_norm", "random_direction"]
    assert record["about"]["changed_nothing"] == every
    assert f"{', '.join(every)} changed nothing in any row, which are those of the untouched model" in caplog.text
    assert "! scale_norm changed nothing: it is the untouched model" in table(record)
    rows = [{k: v for k, v in row.items() if k not in ("condition", "strength")} for row in record["rows"][:4]]
    assert rows[0] == rows[1] == rows[2] == rows[3]


def test_a_neutral_strength_beside_others_is_no_warning(subject, caplog):
    record = run_experiment(subject, experiment("amplify_variance", layers=[0], strengths=[1.0, 3.0]))
    assert record["about"]["changed_nothing"] == []
    assert not caplog.records


def test_isolating_the_first_position_is_said_to_change_nothing(subject, caplog):
    record = run_experiment(subject, experiment(positions=[0]))
    assert record["about"]["changed_nothing"] == ["isolate_position"]
    assert "isolate_position changed nothing" in caplog.text


def test_the_usual_sweeps_can_be_run_with_every_name():
    for name, sweep in SWEEPS.items():
        made = Experiment(name=name, positions=[sweep.position], layers=sweep.layers, strengths=sweep.strengths)
        assert len(list(conditions(made, sweep.position, 0))) >= 2


def test_what_cannot_be_run_is_refused(subject):
    with pytest.raises(ConfigError, match="'scale_norm' is not one of isolate_position, amplify_variance"):
        experiment("scale_norm")
    with pytest.raises(ConfigError, match="acts in one layer; give one"):
        experiment("amplify_variance", layers=[0, 1])
    with pytest.raises(ConfigError, match="--strength: has no effect on isolate_position"):
        experiment(strengths=[2.0])
    with pytest.raises(ConfigError, match="--at: has no effect on isolate_position"):
        experiment(at="first")
    with pytest.raises(ConfigError, match="--seeds: 0 is out of range"):
        experiment(seeds=0)
    with pytest.raises(ConfigError, match=r"--position: 15 is out of range; allowed: 0 .. 14 of 16 tokens"):
        run_experiment(subject, experiment(positions=[15]))
    with pytest.raises(ConfigError, match=r"layer: 2 is out of range; allowed: 0 .. 1"):
        run_experiment(subject, experiment(layers=[2]))
    with pytest.raises(DataError, match=r"lower --seeds or --sequences, or give more text"):
        run_experiment(subject, experiment(seeds=100_000))
