import itertools
import math

import pytest
import torch

from sinkpretrain.config import OptimizerConfig, ScheduleConfig
from sinkpretrain.model.llama import Llama, ModelConfig
from sinkpretrain.training.optimizer import build_optimizer, learning_rate

EVERY_KIND_OF_PARAMETER = {
    "weights": {"name": "kv_bias", "value": "learned"},
    "output": [{"name": "head_rmsnorm", "gain": "per_head"}, {"name": "gate"}],
}


def names_that_decay(model, config):
    optimizer = build_optimizer(model, config)
    groups = [group["params"] for group in optimizer.param_groups if group["weight_decay"]]
    decayed = {id(parameter) for group in groups for parameter in group}
    return {name for name, parameter in model.named_parameters() if id(parameter) in decayed}


@pytest.mark.parametrize("tied", [False, True])
def test_only_linear_weights_decay(tied):
    model = Llama(ModelConfig(vocab_size=32, n_layers=1, attention=EVERY_KIND_OF_PARAMETER, tie_embeddings=tied))
    block = "blocks.0."
    expected = {f"{block}attention.{name}.weight" for name in ("w_q", "w_k", "w_v", "w_o", "output.1.projection")}
    expected |= {f"{block}mlp.{name}.weight" for name in ("w_gate", "w_up", "w_down")}
    assert names_that_decay(model, OptimizerConfig()) == (expected if tied else expected | {"head.weight"})


def test_everything_decays_when_asked():
    model = Llama(ModelConfig(vocab_size=32, n_layers=1, attention=EVERY_KIND_OF_PARAMETER))
    assert names_that_decay(model, OptimizerConfig(decay="all")) == {name for name, _ in model.named_parameters()}


def test_every_parameter_is_in_one_group():
    model = Llama(ModelConfig(vocab_size=32, attention=EVERY_KIND_OF_PARAMETER))
    optimizer = build_optimizer(model, OptimizerConfig(beta2=0.97, eps=1e-7))
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.9, 0.97), 1e-7)}


def test_a_decayed_weight_without_gradient_shrinks_by_rate_times_decay():
    model = Llama(ModelConfig(vocab_size=32, n_layers=1))
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.5, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["head.weight"], before["head.weight"] * 0.95)
    torch.testing.assert_close(after["embedding.weight"], before["embedding.weight"], rtol=0, atol=0)


def rates(name, steps=100, **options):
    schedule = ScheduleConfig(shape=name, **options)
    return [learning_rate(step, steps, 2.0, schedule) for step in range(steps)]


def test_constant():
    assert rates("constant", warmup_steps=4) == [0.5, 1.0, 1.5, 2.0] + [2.0] * 96


def test_cosine():
    curve = rates("cosine", warmup_steps=10, final_fraction=0.1)
    assert curve[9] == 2.0
    assert curve[10] == pytest.approx(2.0)
    assert curve[-1] == pytest.approx(0.2)
    progress = (40 - 10) / (99 - 10)
    assert curve[40] == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi * progress)) / 2)
    assert all(earlier >= later for earlier, later in itertools.pairwise(curve[10:]))


def test_warmup_stable_decay():
    curve = rates("wsd", warmup_steps=5, decay_fraction=0.2, final_fraction=0.0)
    assert curve[4:80] == [2.0] * 76
    assert curve[-1] == pytest.approx(0.0)
    assert curve[89] == pytest.approx(2.0 * 10 / 20)


def test_no_warmup_starts_at_the_peak():
    assert rates("cosine", warmup_steps=0)[0] == 2.0
