"""What figures of interventions and of emergence promise beyond the contract."""

import json

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from synthetic_runs import POSITION, interventions, write_run

from sinkpretrain.errors import DataError
from sinkpretrain.figures.amplify_variance import AmplifyVariance
from sinkpretrain.figures.base.arms import arms_of
from sinkpretrain.figures.base.interventions import measured, records_of, strengths
from sinkpretrain.figures.emergence import Emergence
from sinkpretrain.figures.isolate_position import IsolatePosition
from sinkpretrain.figures.super_neuron_interventions import SuperNeuronInterventions
from sinkpretrain.files import write_json


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "demo" / "softmax-s0", "softmax", 0)


def lines(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def values(run, name, condition, quantity, strength):
    rows = run.intervention(name)["rows"]
    return [row[quantity] for row in rows if (row["condition"], row["strength"]) == (condition, strength)]


def test_spread_is_over_texts_of_one_run_and_over_the_means_of_several(runs):
    one, two = arms_of(runs[:1])[0], arms_of(runs[:2])[0]
    of_texts = [values(run, "amplify_variance", "amplify_variance", "received", 4.0) for run in (runs[0], runs[1])]
    found = measured(records_of(one, "amplify_variance"), "amplify_variance", "received", 4.0)
    assert found == pytest.approx((np.mean(of_texts[0]), np.std(of_texts[0], ddof=1), 3))
    means = [np.mean(texts) for texts in of_texts]
    found = measured(records_of(two, "amplify_variance"), "amplify_variance", "received", 4.0)
    assert found == pytest.approx((np.mean(means), np.std(means, ddof=1), 2))


def test_without_a_strength_the_largest_is_meant(runs):
    (arm,) = arms_of(runs[:1])
    name = "densify_down_projection"
    records = records_of(arm, name)
    assert strengths(records, name) == [0.5, 1.0]
    expected = np.mean(values(runs[0], name, name, "received", 1.0))
    assert measured(records, name, "received").mean == pytest.approx(expected)


def test_seeds_that_were_measured_at_different_positions_have_no_mean(run, tmp_path):
    other = write_run(tmp_path / "demo" / "softmax-s1", "softmax", 1)
    record = interventions("softmax", 1)["isolate_position"]
    moved = json.loads(json.dumps(record).replace(f'"position": {POSITION}', '"position": 20'))
    write_json(other.intervention_path("isolate_position"), moved)
    with pytest.raises(DataError, match=r"demo/softmax-s0 at position 10 of 64 tokens; demo/softmax-s1 at position 20"):
        IsolatePosition().draw([run, other])


def test_only_runs_with_the_record_are_drawn(run, tmp_path):
    other = write_run(tmp_path / "demo" / "softmax-s1", "softmax", 1)
    other.intervention_path("isolate_position").unlink()
    (line,) = lines(IsolatePosition().draw([run, other]).axes[0], "softmax")
    expected = np.mean(values(run, "isolate_position", "isolate_position", "score_by_position", 1.0), axis=0)
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_no_record_names_the_command_that_makes_it(run):
    for name in run.interventions():
        run.intervention_path(name).unlink()
    for figure, name in ((IsolatePosition, "isolate_position"), (AmplifyVariance, "amplify_variance")):
        with pytest.raises(DataError, match=rf"demo/softmax-s0; make it with sinkpretrain intervene RUN --with {name}"):
            figure().draw([run])
    with pytest.raises(DataError, match=r"--with ablate_super_neurons or .*--with densify_down_projection"):
        SuperNeuronInterventions().draw([run])


def test_isolation_shows_the_position_and_the_untouched_model(run):
    axes = IsolatePosition().draw([run]).axes[0]
    assert lines(axes, "_position")[0].get_xdata() == [POSITION, POSITION]
    expected = np.mean(values(run, "isolate_position", "none", "score_by_position", None), axis=0)
    np.testing.assert_allclose(lines(axes, "_dashed softmax")[0].get_ydata(), expected)


def test_amplification_shows_controls_at_the_same_size_and_the_untouched_value(run):
    axes = AmplifyVariance().draw([run]).axes[0]
    for label, condition, shift in (
        ("softmax", "amplify_variance", 0),
        ("_dashed softmax", "scale_norm", 0),
        ("_control softmax", "random_direction", 1),
    ):
        (line,) = lines(axes, label)
        assert line.get_xdata().tolist() == [1, 2, 4, 8]  # lambda = 1 + strength of a random direction
        expected = [
            np.mean(values(run, "amplify_variance", condition, "received", factor - shift)) for factor in (1, 2, 4, 8)
        ]
        np.testing.assert_allclose(line.get_ydata(), expected)
    untouched = np.mean(values(run, "amplify_variance", "none", "received", None))
    assert lines(axes, "_uniform")[0].get_ydata() == pytest.approx([untouched] * 2)
    bars = [bars for bars in axes.containers if isinstance(bars, ErrorbarContainer)]
    low, high = bars[-1].lines[2][0].get_segments()[2][:, 1]
    texts = values(run, "amplify_variance", "amplify_variance", "received", 4.0)
    assert (high - low) / 2 == pytest.approx(np.std(texts, ddof=1))


def test_perplexities_of_interventions_are_in_the_titles(run):
    above, below = SuperNeuronInterventions().draw([run]).axes
    name, words, control = above.get_title(loc="left").split("\n")
    found = [
        np.mean(values(run, "ablate_super_neurons", *of))
        for of in (("none", "perplexity", None), ("ablate_super_neurons", "perplexity", 1.0))
    ]
    assert (name, words) == ("softmax", "perplexity {:.3g} to {:.3g}".format(*found))
    random = np.mean(values(run, "ablate_super_neurons", "random_neurons", "perplexity", 1.0))
    assert control == f"(random neurons: {random:.3g})"
    dashed = np.mean(values(run, "densify_down_projection", "random_densified", "first_by_layer", 1.0), axis=0)
    np.testing.assert_allclose(lines(below, "_dashed softmax")[0].get_ydata(), dashed)


def test_an_intervention_without_records_has_no_row(run):
    run.intervention_path("densify_down_projection").unlink()
    (axes,) = SuperNeuronInterventions().draw([run]).axes
    assert axes.get_ylabel().startswith("super neurons ablated")


def test_emergence_marks_the_first_probe_at_the_level_and_nothing_where_it_never_is(runs):
    above, below = Emergence().draw([runs[0], runs[2]], "step").axes
    steps, rates = runs[0].series("sink/rate_normalised")
    (star, line), (line_below,) = lines(above, "_emergence"), lines(below, "_emergence")
    place = int(np.flatnonzero(rates >= 0.1)[0])
    assert (star.get_xdata(), star.get_ydata()) == ([steps[place]], [rates[place]])
    assert line.get_xdata() == line_below.get_xdata() == [steps[place]] * 2
    heights = [axes.lines[-1].get_ydata()[0] for axes in (above, below)]
    assert heights == [0.1, 2.0]
    reading = Emergence().reading([runs[0], runs[2]])
    assert f"softmax step {steps[place]} (neurons" in reading
    assert "sigmoid not by step 1,000" in reading
