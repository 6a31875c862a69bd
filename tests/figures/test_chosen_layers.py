"""Which layer the figures of a single layer show."""

import numpy as np
import pytest
from artists import texts
from expected_layers import LAYER_FIGURES
from synthetic_runs import PROBED_TEXT, STEPS, SUPER_LAYER, SUPER_NEURON, config, probe

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.figures.base.layers import super_neuron_layer
from sinkpretrain.figures.gate_similarity import GateSimilarity
from sinkpretrain.figures.head_balance import HeadBalance
from sinkpretrain.figures.key_alignment import KeyAlignment
from sinkpretrain.figures.super_neurons import SuperNeurons
from sinkpretrain.runs import Run


def at_layer(name, layer):
    options = registry.build_options("figures", name, {"layer": layer}, "figure")
    return registry.load("figures", name)(options)


@pytest.fixture
def altered(tmp_path):
    """A run of softmax whose last probe has some arrays replaced, or left out where they are None."""

    def write(arrays):
        run = Run(tmp_path / "demo" / "softmax-s0")
        if not run.config_path.exists():
            run.create(config("softmax", 0))
        record = probe("softmax", 0, STEPS) | arrays
        run.write_probe(STEPS, {name: array for name, array in record.items() if array is not None}, PROBED_TEXT)
        return run

    return write


@pytest.mark.parametrize("name", LAYER_FIGURES)
def test_the_layer_of_the_options_is_shown(name, runs):
    figure = at_layer(name, 3)
    canvas = figure.draw(runs)
    for place, variant in enumerate(("softmax", "sigmoid")):
        LAYER_FIGURES[name](canvas, variant, runs[2 * place : 2 * place + 2], layer=3)
    assert "layer 3" in canvas._suptitle.get_text()
    assert figure.reading(runs) != at_layer(name, None).reading(runs)


@pytest.mark.parametrize("name", LAYER_FIGURES)
@pytest.mark.parametrize("layer", [6, -1])
def test_a_layer_that_the_model_lacks_is_refused_with_those_it_has(name, layer, runs):
    for wanted in (at_layer(name, layer).draw, at_layer(name, layer).reading):
        with pytest.raises(ConfigError, match=f"{layer} is not in demo/softmax-s0, whose layers are 0 to 5"):
            wanted(runs)


def test_the_super_neuron_is_found_where_it_was_put(runs):
    for figure in (SuperNeurons(), GateSimilarity()):
        canvas = figure.draw(runs[:1])
        assert any(f"layer {SUPER_LAYER}, " in text for text in texts(canvas))
        assert any(str(SUPER_NEURON) in text for text in texts(canvas))


def test_a_flagged_neuron_is_judged_by_its_excess_and_others_do_not_count(altered):
    first, others, flagged = (np.ones((3, 4)) for _ in range(3))
    first[0, 1], first[1, 2], first[2, 3] = 50, 8, 9
    others[2, 3], others[2, 0] = 3, 1e-6
    flagged[:] = 0
    flagged[1, 2] = flagged[2, 3] = flagged[2, 0] = 1
    arrays = {"flagged": flagged, "first": first, "others": others}
    run = altered({f"super_neurons/{name}": array for name, array in arrays.items()})
    assert super_neuron_layer(None).of(run, "super_neurons/first").layer == 1
    flagged[:] = 0
    run = altered({f"super_neurons/{name}": array for name, array in arrays.items()})
    assert super_neuron_layer(None).of(run, "super_neurons/first").layer == 0


def test_attention_of_the_first_layer_rises_from_uniform(altered):
    mean_L = np.array([0.5, 0.6, 0.9, 0.9, 0.9, 0.9])
    attention = {"first_token_attention/normalised": np.repeat(mean_L[:, None], 4, axis=1)}
    heading = {
        uniform: texts(
            KeyAlignment().draw([altered({**attention, "first_token_attention/uniform": np.array(uniform)})])
        )
        for uniform in (0.1, 0.3)
    }
    assert "softmax\nlayer 0" in heading[0.1]
    assert "softmax\nlayer 2" in heading[0.3]


def test_records_that_only_pick_the_layer_are_not_needed_where_it_is_given(altered):
    run = altered({"super_neurons/flagged": None})
    with pytest.raises(DataError, match="super_neurons/flagged"):
        GateSimilarity().draw([run])
    assert "softmax\nlayer 2, neuron" in " ".join(texts(at_layer("gate_similarity", 2).draw([run])))


def test_the_seed_is_named_where_there_are_several(runs):
    assert any(text.startswith("softmax, seed 0\n") for text in texts(SuperNeurons().draw(runs)))
    assert not any("seed" in text for text in texts(SuperNeurons().draw(runs[:1])))


def test_rank_correlation_is_within_layers(altered):
    entropy_LH = np.array([[1.0, 2, 3, 4], [11, 12, 13, 14]])
    variance_LH = np.array([[4.0, 3, 2, 1], [70, 80, 60, 50]])
    run = altered({"head_balance/entropy": entropy_LH, "head_balance/variance": variance_LH})
    reading = HeadBalance().reading([run])
    assert "mean over layers: softmax -0.90;" in reading
    assert "median over layers: softmax 2.8." in reading
