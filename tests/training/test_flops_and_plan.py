from pathlib import Path

from sinkpretrain.config import Config
from sinkpretrain.mappings import build
from sinkpretrain.model.flops import count_parameters, flops_per_token
from sinkpretrain.model.llama import Llama, ModelConfig
from sinkpretrain.training.plan import describe, plan

SHAPE = {
    "vocab_size": 100,
    "n_layers": 3,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_model": 32,
    "d_ff": 80,
    "context_length": 16,
}
ATTENTION = 32 * 32 + 2 * 32 * 16 + 32 * 32
FEED_FORWARD = 3 * 32 * 80
LINEAR = 3 * (ATTENTION + FEED_FORWARD) + 32 * 100


def test_parameters_are_counted_by_hand():
    norms = (2 * 3 + 1) * 32
    assert count_parameters(ModelConfig(**SHAPE)) == LINEAR + 100 * 32 + norms
    assert count_parameters(ModelConfig(**SHAPE, tie_embeddings=True)) == LINEAR + norms


def test_operations_are_counted_by_hand():
    scores_and_mixing = 3 * (2 * 2 * 4 * 8) * (16 + 1) / 2
    assert flops_per_token(ModelConfig(**SHAPE)) == 3 * (2 * LINEAR + scores_and_mixing)


def test_a_gate_costs_its_projection():
    gated = ModelConfig(**SHAPE, attention={"output": [{"name": "gate", "granularity": "head"}]})
    assert flops_per_token(gated) - flops_per_token(ModelConfig(**SHAPE)) == 6 * 3 * 32 * 4


def test_the_152m_model_has_the_parameters_its_file_states():
    from sinkpretrain.mappings import read_yaml

    shape = build(ModelConfig, read_yaml(Path(__file__).parents[2] / "configs/model/152m.yaml")["model"], "model")
    assert count_parameters(shape) == 151_862_784


def test_the_plan_agrees_with_the_model_and_the_budget():
    config = Config(tokens=1000, global_batch_size=8, micro_batch_size=2, model=ModelConfig(**SHAPE))
    planned = plan(config)
    assert planned["parameters"] == sum(parameter.numel() for parameter in Llama(config.model).parameters())
    assert (planned["steps"], planned["tokens"], planned["tokens_per_step"]) == (7, 7 * 128, 128)
    assert (planned["processes"], planned["windows_per_pass"], planned["accumulation"]) == (1, 2, 4)
    assert "4 of 2 windows, a device and step; 1 device\n" in describe(planned)
    assert planned["flops"] == planned["flops_per_token"] * 7 * 128
    assert planned["memory_bytes"] > planned["parameters"] * 16
    assert f"{planned['parameters']:,}" in describe(planned)


def test_more_devices_take_fewer_micro_batches_and_sharded_ones_less_memory():
    shape = ModelConfig(**SHAPE)
    on_two = {"tokens": 1000, "global_batch_size": 8, "micro_batch_size": 2, "devices": 2, "model": shape}
    whole, divided = plan(Config(**on_two)), plan(Config(**on_two, strategy="sharded"))
    assert (whole["processes"], whole["accumulation"]) == (2, 2)
    assert whole["memory_bytes"] - divided["memory_bytes"] == whole["parameters"] * 16 / 2
    assert "2 of 2 windows, a device and step; 2 devices" in describe(whole)
