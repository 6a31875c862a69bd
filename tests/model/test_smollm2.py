"""A real model: SmolLM2-135M-Instruct, as `scripts/fetch_smollm2` brings it.

Shapes use B batch, T positions, H query heads, R a block of query rows, S key positions, L layers.
"""

import json
import math

import pytest
import torch

from sinkpretrain.attention.base import Mask
from sinkpretrain.model.exporting import export_hf
from sinkpretrain.model.llama import next_token_loss
from sinkpretrain.model.load import load_model
from sinkpretrain.taps import record

pytestmark = [pytest.mark.slow, pytest.mark.network]
pytest.importorskip("gguf", reason="GGUF files need the extra 'hub'")

TOKENS = 256


def test_it_says_what_transformers_says(smollm2):
    source = json.loads(smollm2.source_path.read_text())
    assert source["weights"] == "Q4_1: dequantised, not the original model"
    assert source["parity"]["tokens"] == TOKENS
    assert source["parity"]["max_abs_logit_error"] <= 1e-4
    assert smollm2.config().model.kv_heads == 3
    assert smollm2.status()["parameters"] == 134_515_008


def test_prose_has_the_perplexity_of_a_trained_model(smollm2, prose):
    model, _ = load_model(smollm2.root)
    with torch.no_grad():
        nll = sum(next_token_loss(model(row_BT)[:, :-1], row_BT[:, 1:]) for row_BT in prose.split(1))
    assert 12 < math.exp(nll / prose[:, 1:].numel()) < 19


def test_its_later_layers_look_at_the_first_token(smollm2, prose):
    model, _ = load_model(smollm2.root)
    with torch.no_grad(), record(model, "q", "k") as taps:
        model(prose[:2])
    mask, mean_L = Mask(TOKENS, prose.device), torch.zeros(30)
    for layer, block in enumerate(model.blocks):
        rows = block.attention.weights.rows(taps["q"][layer], taps["k"][layer], mask)
        mean_L[layer] = torch.cat([weights_BHRS for _, weights_BHRS in rows], dim=2)[:, :, 32:, 0].mean()
    assert 0.3 < mean_L.mean() < 0.4
    assert mean_L[:12].max() < 0.25
    assert mean_L[12:].min() > 0.2
    assert mean_L[12:].max() > 0.6


def test_it_goes_out_as_a_plain_llama(smollm2, tmp_path):
    assert json.loads((export_hf(smollm2, tmp_path / "out") / "config.json").read_text())["model_type"] == "llama"
