"""On a real model: an isolated position becomes a sink, and super neurons matter where random ones do not.

Shapes use B batch, T positions.
"""

import pytest

from sinkpretrain.data.windows import Batch
from sinkpretrain.intervening.reading import Condition, read_condition
from sinkpretrain.model.load import load_model

pytestmark = [pytest.mark.network, pytest.mark.slow]

TOKENS, POSITION = 64, 10


@pytest.fixture(scope="module")
def read(smollm2, prose):
    """What a row says of a condition, on twelve windows of prose."""
    pytest.importorskip("transformers", reason="importing needs the extra 'hub'")
    model, _ = load_model(smollm2.root)
    batch = Batch(prose[:, :TOKENS], prose[:, 1 : TOKENS + 1], None)

    def of(kind, at=POSITION, **options):
        return read_condition(model, Condition(name=str(kind), kind=kind, options=options), batch, at)

    return of


def test_an_isolated_position_becomes_a_sink(read):
    untouched = read(None)
    isolated = read("isolate_position", position=POSITION)
    assert untouched["received"] < 0.05
    assert isolated["received"] > 0.15
    assert isolated["sink_rate"] > 0.2 > untouched["sink_rate"]
    assert isolated["neuron_peak"] > 1000, "its super neurons fire as they do at the first token"
    assert isolated["dominance"] > 200


def test_super_neurons_carry_the_sink_and_random_ones_do_not(read):
    untouched = read(None, at=0)
    for kind in ("ablate_super_neurons", "densify_down_projection"):
        flagged, random = (read(kind, at=0, choose=choose) for choose in ("flagged", "random"))
        assert flagged["first_token_attention"] < 0.8 * untouched["first_token_attention"]
        assert random["first_token_attention"] == pytest.approx(untouched["first_token_attention"], rel=0.05)
        assert random["perplexity"] < 1.2 * untouched["perplexity"]
