"""The sharded strategy: what it trains, what of it is whole, and checkpoints that any number of processes reads."""

import numpy as np
import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from sinkpretrain import checkpoints, registry
from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError
from sinkpretrain.model.llama import Llama, ModelConfig, next_token_loss
from sinkpretrain.runs import Run
from sinkpretrain.training.optimizer import build_optimizer
from sinkpretrain.training.sharding import gathered, is_sharded, scattered, shard, weights, whole
from sinkpretrain.training.train import train

# The gradient's norm is a sum of the shards' norms and differs in its last bits; measured 5e-8 after 12 steps.
SHARDED = 1e-6


@pytest.fixture
def mesh():
    """A group of this process alone: every code path of sharding but the talk."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def build(**keys):
    shape = {"vocab_size": 32, "n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 24, "context_length": 16}
    return Llama(ModelConfig(**shape, **keys))


def tokens():
    return torch.randint(32, (3, 16), generator=torch.Generator().manual_seed(0))


def one_step(model, optimizer):
    next_token_loss(model(tokens()), tokens()).backward()
    optimizer.step()
    optimizer.zero_grad()


KINDS = [{"weights": {"name": name}} for name in registry.names("attention.weights")]
KINDS += [{"output": [{"name": name}]} for name in registry.names("attention.output")]


@pytest.mark.parametrize("attention", KINDS, ids=str)
def test_every_attention_kind_can_be_sharded(mesh, attention):
    plain, sharded = build(attention=attention), build(attention=attention)
    shard(sharded, mesh)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    for model in (plain, sharded):
        one_step(model, build_optimizer(model, Config().optimizer))
    for name, weight in weights(plain).items():
        torch.testing.assert_close(gathered(weights(sharded))[name], weight)


def test_a_whole_copy_reads_as_the_model(mesh):
    """Methods beside forward, weights as plain tensors, tied ones still tied; the sharded model stays as it is."""
    plain, sharded = build(tie_embeddings=True), build(tie_embeddings=True)
    assert whole(plain) is plain and not is_sharded(plain)
    shard(sharded, mesh)
    assert sharded.head.weight is sharded.embedding.weight
    copy = whole(sharded)
    assert is_sharded(sharded) and not is_sharded(copy)
    assert copy.head.weight is copy.embedding.weight and "head.weight" not in weights(sharded)
    assert torch.equal(copy.residual(tokens()), plain.residual(tokens()))
    for mine, theirs in zip(copy.blocks, plain.blocks, strict=True):
        assert all(torch.equal(mine.matrices[name], matrix) for name, matrix in theirs.matrices.items())
    assert not whole(sharded.eval()).training


def test_an_optimizer_goes_to_pieces_and_back(mesh):
    plain, sharded = build(), build()
    shard(sharded, mesh)
    before, after = (build_optimizer(model, Config().optimizer) for model in (plain, sharded))
    one_step(plain, before)
    after.load_state_dict(scattered(before.state_dict(), after))
    moments = [entries["exp_avg"] for entries in after.state.values()]
    assert moments and all(isinstance(moment, DTensor) for moment in moments)
    found, expected = gathered(after.state_dict()), before.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for index, entries in expected["state"].items():
        assert all(torch.equal(found["state"][index][name], value) for name, value in entries.items())


ALONE, SHARDED_ON_TWO = ("--devices", 1, "--strategy", "ddp"), ("--devices", 2, "--strategy", "sharded")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then", "tie"),
    [(SHARDED_ON_TWO, SHARDED_ON_TWO, False), (SHARDED_ON_TWO, ALONE, True), (ALONE, SHARDED_ON_TWO, True)],
    ids=["sharded", "then alone", "then sharded"],
)
def test_a_run_trains_saves_and_goes_on_sharded_and_not(tmp_path, finish, small_config, first, then, tie):
    """Stopped and saved at step 5, then to the end; every way follows the curve of one process undisturbed."""
    plain = train(small_config({"micro_batch_size": 4, "model": {"tie_embeddings": tie}}), tmp_path / "plain")
    run = Run(tmp_path / "run")
    fault = f"SIGUSR1:{'alone' if first is ALONE else 0}:5"
    code, _, stderr = finish(*first, "--model.tie_embeddings", str(tie).lower(), "--out", run.root, fault=fault)
    assert code == 75, stderr
    saved, usual = checkpoints.read(run.checkpoints, 5), checkpoints.read(plain.checkpoints, 8)
    for part in ("model", "optimizer"):
        assert shapes(getattr(saved, part)) == shapes(getattr(usual, part))
    assert ("head.weight" in saved.model) is not tie
    code, _, stderr = finish("--resume", run.root, *then)
    assert code == 0, stderr
    assert [row["step"] for row in run.metrics()] == [row["step"] for row in plain.metrics()]
    np.testing.assert_allclose(run.series("train/loss")[1], plain.series("train/loss")[1], rtol=SHARDED)
    for name in ("val/loss", "optim/grad_norm", "sink/first_token_mean", "rank/effective_mean"):
        np.testing.assert_allclose(run.series(name)[1], plain.series(name)[1], rtol=10 * SHARDED)
    for name in ("super_neurons/gate_norm", "super_neurons/kurtosis", "first_token_attention/raw"):
        np.testing.assert_allclose(run.probe()[name], plain.probe()[name], rtol=1e-4)


def shapes(state):
    return tree_map(lambda value: (value.shape, type(value)) if isinstance(value, torch.Tensor) else None, state)


def test_sharding_over_one_device_is_refused_when_it_starts(tmp_path, small_config):
    with pytest.raises(ConfigError, match="strategy: 'sharded' has no effect on a single device; give --devices"):
        train(small_config({"strategy": "sharded"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
