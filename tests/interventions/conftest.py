"""A small model with planted super neurons, and text for it."""

import pytest
import torch
from planted import SUPER

from sinkpretrain.model.llama import Llama, ModelConfig


@pytest.fixture
def build():
    """Builds a model of three layers whose neurons `SUPER` are outliers in their gate and up norms."""

    def make(attention=None, **changes):
        sizes = dict(vocab_size=41, n_layers=3, n_heads=4, n_kv_heads=2, d_model=32, d_ff=24, context_length=32)
        model = Llama(ModelConfig(**{**sizes, **changes}, attention=attention or {}), seed=5).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(5)  # far from uniform attention
            for layer, neurons in SUPER.items():
                model.blocks[layer].mlp.w_gate.weight[neurons] *= 30
                model.blocks[layer].mlp.w_up.weight[neurons] *= 30
        return model

    return make


@pytest.fixture
def model(build):
    return build()


@pytest.fixture
def tokens_BT():
    return torch.randint(41, (3, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def document_BT():
    return torch.tensor([[0] * 8 + [1] * 12, [0] * 20, [0] * 3 + [1] * 2 + [2] * 15])
