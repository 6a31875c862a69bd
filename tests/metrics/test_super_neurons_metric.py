"""Super neurons: norms, the rule for outliers at its edge, how columns spread, planted activations.

Shapes use B batch, T positions, C model width, F feed-forward neurons.
"""

import numpy as np
import pytest
import torch

from sinkpretrain.metrics.super_neurons import SuperNeurons, neurons

TOKENS, WIDTH, NEURONS = 24, 5, 7
PLAIN = (9.0, 9.0, 9.0, 10.0, 11.0, 11.0)  # with one larger norm: median 10, median absolute deviation 1


def weights(gate_norm_F=(1.0,) * NEURONS, up_norm_F=(1.0,) * NEURONS, down_CF=None):
    """Matrices of rows with these norms, along a channel of their own choice."""
    channel_FC = torch.eye(WIDTH)[torch.arange(len(gate_norm_F)) % WIDTH]
    return {
        "w_gate": torch.tensor(gate_norm_F)[:, None] * channel_FC,
        "w_up": -torch.tensor(up_norm_F)[:, None] * channel_FC,
        "w_down": torch.ones(WIDTH, len(gate_norm_F)) if down_CF is None else down_CF,
    }


def silent(neurons=NEURONS):
    return torch.zeros(2, TOKENS, neurons)


@pytest.fixture
def weighed(make_view, measured):
    """The record of a layer with such weights whose neurons are silent."""

    def weigh(matrices):
        return measured("super_neurons", make_view(mlp_hidden=silent(len(matrices["w_gate"])), matrices=matrices))

    return weigh


def test_norms_are_of_rows_and_of_columns(weighed):
    generator = torch.Generator().manual_seed(1)
    shapes = {"w_gate": (NEURONS, WIDTH), "w_up": (NEURONS, WIDTH), "w_down": (WIDTH, NEURONS)}
    matrices = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    arrays = weighed(matrices)
    of = {name: matrix.double().numpy() for name, matrix in matrices.items()}
    for f in range(NEURONS):
        np.testing.assert_allclose(arrays["gate_norm"][f], np.sqrt((of["w_gate"][f] ** 2).sum()), rtol=1e-12)
        np.testing.assert_allclose(arrays["up_norm"][f], np.sqrt((of["w_up"][f] ** 2).sum()), rtol=1e-12)
        np.testing.assert_allclose(arrays["down_norm"][f], np.sqrt((of["w_down"][:, f] ** 2).sum()), rtol=1e-12)
        energy = np.sort(of["w_down"][:, f] ** 2)
        np.testing.assert_allclose(arrays["top3_share"][f], energy[-3:].sum() / energy.sum(), rtol=1e-12)


@pytest.mark.parametrize(("norm", "flag"), [(16.0, 0.0), (16.001, 1.0), (0.1, 0.0)])
def test_outliers_are_more_than_six_deviations_above_the_median(weighed, norm, flag):
    norm_F = (*PLAIN[:2], norm, *PLAIN[2:])
    assert weighed(weights(norm_F, norm_F))["flagged"].tolist() == [0.0] * 2 + [flag] + [0.0] * 4


def test_both_norms_must_stand_out(weighed):
    """Neuron 0 stands out in both, neuron 1 by its gate alone, neuron 2 by its up row alone."""
    gate_norm_F, up_norm_F = (90.0, 50.0, 10.0, *PLAIN), (20.0, 10.0, 50.0, *PLAIN)
    assert weighed(weights(gate_norm_F, up_norm_F))["flagged"].tolist() == [1.0] + [0.0] * 8


def test_where_all_others_are_equal_any_larger_one_stands_out(weighed):
    """Deviations of zero divide nothing by nothing where a norm is the median itself."""
    norm_F = (1.0, 1.0, 1.001, 1.0, 0.5, 1.0, 1.0)
    assert weighed(weights(norm_F, norm_F))["flagged"].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_nan_weights_never_read_no_super_neuron(weighed):
    assert np.isnan(weighed(weights((torch.nan, *PLAIN)))["flagged"]).all()


def test_the_strongest_candidate_is_the_best_of_the_weaker_norms():
    """Neuron 1 has the largest norm of all, yet its up row is plain."""
    gate_norm_F, up_norm_F = (20.0, 90.0, 18.0, *PLAIN, *PLAIN), (17.0, 10.0, 40.0, *PLAIN, *PLAIN)
    assert neurons(weights(gate_norm_F, up_norm_F)) == ([0, 2], 2)
    assert neurons(weights((9.0, 11.0, 12.0, *PLAIN), (9.0, 12.0, 11.5, *PLAIN))) == ([], 2)


def test_spread_of_known_columns(weighed):
    """One channel of ten: kurtosis (1 - 3 p (1 - p)) / (p (1 - p)) at p = 0.1. Signs of equal size: kurtosis 1."""
    down_CF = torch.zeros(10, 3)
    down_CF[4, 0] = -2.0
    down_CF[:, 1] = torch.tensor([1.0, -1.0]).repeat(5)
    down_CF[[1, 6, 8], 2] = torch.tensor([1.0, -2.0, 3.0])
    arrays = weighed(weights((1.0,) * 3, (1.0,) * 3, down_CF))
    np.testing.assert_allclose(arrays["top3_share"], [1.0, 0.3, 1.0], rtol=1e-12)
    np.testing.assert_allclose(arrays["kurtosis"][:2], [0.73 / 0.09, 1.0], rtol=1e-12)


def test_kurtosis_of_normal_weights_is_three_wherever_they_lie(weighed):
    down_CF = torch.randn(50_000, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 0.02, 5.0])
    kurtosis_F = weighed(weights((1.0,) * 3, (1.0,) * 3, down_CF + torch.tensor([0.0, 0.1, 0.0])))["kurtosis"]
    np.testing.assert_allclose(kurtosis_F, [3.0] * 3, atol=0.1)  # its standard error is sqrt(24 / 50000) = 0.02


def test_planted_activations(make_view, measured):
    """The largest neuron of each token, then the mean: neuron 1 speaks in one sequence, neuron 2 in the other."""
    hidden_BTF = silent()
    hidden_BTF[0, 0, 1], hidden_BTF[1, 0, 2], hidden_BTF[1, 5, 3] = -4.0, 8.0, 23.0
    arrays = measured("super_neurons", make_view(mlp_hidden=hidden_BTF, matrices=weights()))
    assert arrays["first"].tolist() == [0.0, 2.0, 4.0, 0.0, 0.0, 0.0, 0.0]
    assert arrays["peak_first"] == 6.0
    assert arrays["others"].tolist() == [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]  # 23 over 2 sequences of 23 tokens
    assert arrays["peak_others"] == 0.5
    peaks = {"peak_first": np.array([6.0, 3.0]), "peak_others": np.array([2.0, 0.5])}
    assert SuperNeurons().scalars(peaks) == {"activation/neuron_peak_ratio": 6.0}


def test_activations_by_document_match_a_loop(make_view, measured, packed_BT, documents):
    hidden_BTF = torch.randn(2, TOKENS, NEURONS, generator=torch.Generator().manual_seed(1))
    first, others = [], []
    for window, place in documents(packed_BT):
        size_TF = abs(hidden_BTF[window, place].double().numpy())
        first.append(size_TF[0])
        others += list(size_TF[1:])
    arrays = measured("super_neurons", make_view(document_BT=packed_BT, mlp_hidden=hidden_BTF, matrices=weights()))
    for name, size_NF in (("first", np.array(first)), ("others", np.array(others))):
        np.testing.assert_allclose(arrays[name], size_NF.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(arrays[f"peak_{name}"], size_NF.max(axis=1).mean(), rtol=1e-12)
