"""Small models with attention far from uniform, so that heads have sinks, and text for them."""

import pytest
import torch

from sinkpretrain.model.llama import Llama, ModelConfig

KINDS = {
    "softmax": {},
    "sigmoid": {"weights": {"name": "sigmoid"}},
    "sigmoid_normalized": {"weights": {"name": "sigmoid", "normalize": True}},
    "softmax_off_by_one": {"weights": {"name": "softmax_off_by_one"}},
    "learned_sink": {"weights": {"name": "learned_sink"}},
    "kv_bias": {"weights": {"name": "kv_bias", "value": "learned"}},
    "head_rmsnorm": {"output": [{"name": "head_rmsnorm"}]},
    "gate": {"output": [{"name": "gate", "granularity": "element"}]},
}


@pytest.fixture
def build():
    """Builds a model of five layers; ACT's default layers are 2 and 3."""

    def make(attention=None, **changes):
        sizes = dict(vocab_size=41, n_layers=5, n_heads=4, n_kv_heads=2, d_model=32, d_ff=24, context_length=64)
        model = Llama(ModelConfig(**{**sizes, **changes}, attention=attention or {}), seed=5).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(5)  # far from uniform attention
        return model

    return make


@pytest.fixture
def model(build):
    return build()


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def any_model(build, request):
    return build(request.param)


@pytest.fixture
def tokens_BT():
    return torch.randint(41, (3, 40), generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield
