"""RoPE stretched to a longer context: the tables of transformers, and what the configuration refuses.

Shapes use T positions, D head size.
"""

import pytest
import torch

from sinkpretrain.config import ModelConfig
from sinkpretrain.errors import ConfigError
from sinkpretrain.mappings import build, to_mapping
from sinkpretrain.model.hub import hub_config
from sinkpretrain.model.layers import RoPE

LLAMA3 = {"name": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_context_length": 8192}
LINEAR = {"name": "linear", "factor": 3.5}


@pytest.mark.parametrize("scaling", [LINEAR, LLAMA3, {**LLAMA3, "factor": 32.0, "low_freq_factor": 0.5}], ids=str)
def test_the_table_is_that_of_transformers(scaling):
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama", reason="needs the extra 'hub'")
    config = ModelConfig(
        vocab_size=2, n_heads=1, d_model=128, context_length=131_072, rope_theta=5e5, rope_scaling=scaling
    )
    position_T = torch.arange(0, 131_072, 13)
    theirs = modeling.LlamaRotaryEmbedding(modeling.LlamaConfig(**hub_config(config)))(torch.zeros(1), position_T[None])
    plain = RoPE(ModelConfig(n_heads=1, d_model=128, rope_theta=5e5)).table(position_T)
    for ours, their_1TD, unscaled in zip(RoPE(config).table(position_T), theirs, plain, strict=True):
        torch.testing.assert_close(ours[:, 0], their_1TD[0], rtol=0, atol=1e-6)
        assert (ours - unscaled).abs().max() > 0.5, "the scaling does something"


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"name": "yarn", "factor": 2.0}, "name: 'yarn' is not one of linear, llama3; null means no scaling"),
        ({"factor": 2.0}, "name: None is not one of"),
        ({"name": "linear"}, "'linear' needs factor; given: none of them"),
        ({**LINEAR, "low_freq_factor": 1.0}, "'linear' needs factor; given: factor, low_freq_factor"),
        ({**LINEAR, "factor": 0.0}, "factor: 0.0 is out of range; allowed: a finite number > 0"),
        ({**LINEAR, "factor": "two"}, "factor: 'two' is out of range"),
        ({**LLAMA3, "high_freq_factor": 1}, r"high_freq_factor: 1 is out of range; allowed: > low_freq_factor \(1\)"),
    ],
)
def test_a_scaling_without_a_meaning_is_refused(scaling, message):
    with pytest.raises(ConfigError, match=f"^model.rope_scaling.*{message}"):
        ModelConfig(rope_scaling=scaling)


def test_a_scaling_survives_a_file():
    config = ModelConfig(rope_scaling=LLAMA3)
    assert build(ModelConfig, to_mapping(config), "model") == config
