"""The strongest neuron by position: a planted one, closed forms, documents.

Shapes use B batch, T positions, C model width, F feed-forward neurons.
"""

import numpy as np
import pytest
import torch

TOKENS, WIDTH, NEURONS, SUPER = 24, 6, 8, 5


@pytest.fixture
def matrices():
    """Neuron 5 stands out in both norms; neuron 2 by more in its gate, neuron 3 by more in its up row."""
    generator = torch.Generator().manual_seed(1)
    gate_FC, up_FC = (torch.nn.functional.normalize(torch.randn(NEURONS, WIDTH, generator=generator)) for _ in range(2))
    for matrix_FC, strong in ((gate_FC, 2), (up_FC, 3)):
        matrix_FC *= torch.linspace(0.9, 1.1, NEURONS)[:, None]
        matrix_FC[SUPER] *= 10
        matrix_FC[strong] *= 30
    return {"w_gate": gate_FC, "w_up": up_FC, "w_down": torch.randn(WIDTH, NEURONS, generator=generator)}


def test_closed_forms_by_position(make_view, measured, matrices):
    """Along the gate row, against it, across it: lengths do not matter to the cosine."""
    gate_C, up_C = matrices["w_gate"][SUPER], matrices["w_up"][SUPER]
    across_C = torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    across_C -= gate_C * (across_C @ gate_C) / (gate_C @ gate_C)
    in_BTC = torch.stack([3 * gate_C, -0.5 * gate_C, across_C]).repeat(2, 1, 1)
    hidden_BTF = torch.arange(2 * 3 * NEURONS).view(2, 3, NEURONS) * -1.0
    arrays = measured("gate_similarity", make_view(mlp_in=in_BTC, mlp_hidden=hidden_BTF, matrices=matrices))
    assert arrays["neuron"] == SUPER
    np.testing.assert_allclose(arrays["gate_cosine"], [1.0, -1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(arrays["up"], [3 * gate_C @ up_C, -0.5 * gate_C @ up_C, across_C @ up_C], rtol=1e-5)
    assert arrays["activation"].tolist() == [-(NEURONS * t + SUPER + 3 * NEURONS / 2) for t in range(3)]
    np.testing.assert_array_equal(arrays["down"], matrices["w_down"][:, SUPER])


def test_the_neuron_need_not_be_flagged(make_view, measured, matrices):
    """Here no norm is six deviations out; neuron 6 is the furthest in the weaker of its two."""
    for name, norms in (("w_gate", [1, 2, 9, 2, 3, 3, 5, 1]), ("w_up", [1, 3, 2, 9, 2, 3, 4, 1])):
        matrices[name] = torch.nn.functional.normalize(matrices[name]) * torch.tensor(norms)[:, None]
    view = make_view(mlp_in=torch.ones(1, 2, WIDTH), mlp_hidden=torch.zeros(1, 2, NEURONS), matrices=matrices)
    assert measured("gate_similarity", view)["neuron"] == 6
    assert not measured("super_neurons", view)["flagged"].any()


def test_documents_match_a_loop(make_view, measured, matrices, packed_BT, documents):
    generator = torch.Generator().manual_seed(3)
    in_BTC, hidden_BTF = (torch.randn(2, TOKENS, width, generator=generator) for width in (WIDTH, NEURONS))
    gate_C, up_C = (matrices[name][SUPER].double().numpy() for name in ("w_gate", "w_up"))
    expected = {name: [[] for _ in range(TOKENS)] for name in ("gate_cosine", "up", "activation")}
    for window, place in documents(packed_BT):
        for t, x_C in enumerate(in_BTC[window, place].double().numpy()):
            expected["gate_cosine"][t].append(x_C @ gate_C / np.linalg.norm(x_C) / np.linalg.norm(gate_C))
            expected["up"][t].append(x_C @ up_C)
            expected["activation"][t].append(float(hidden_BTF[window, place][t, SUPER]))
    view = make_view(document_BT=packed_BT, mlp_in=in_BTC, mlp_hidden=hidden_BTF, matrices=matrices)
    arrays = measured("gate_similarity", view)
    for name, values in expected.items():
        expected_T = [np.mean(of) if of else np.nan for of in values]
        np.testing.assert_allclose(arrays[name], expected_T, rtol=1e-4, atol=1e-6, err_msg=name)  # float32 products
