"""One run on several processes: the numbers are those of one process with as many micro-batches."""

import re
import signal

import numpy as np
import pytest
import torch

from sinkpretrain import checkpoints
from sinkpretrain.runs import Run

# Four gradients are summed in another order by four ranks than by one; measured 9e-8 after 12 steps.
FOUR_RANKS = 1e-6


def final(run):
    return checkpoints.read(run.checkpoints, checkpoints.steps(run.checkpoints)[-1])


def losses(run):
    return run.series("train/loss")[1]


def assert_equal(two, one, without_speed):
    """The record, the probes, the weights and AdamW's state, bit for bit."""
    assert without_speed(two) == without_speed(one)
    assert two.probe_steps() == one.probe_steps()
    for name, array in one.probe().items():
        assert np.array_equal(two.probe()[name], array, equal_nan=array.dtype.kind == "f"), name
    left, right = final(two), final(one)
    assert left.model.keys() == right.model.keys()
    for name, weight in right.model.items():
        assert torch.equal(left.model[name], weight), name
    for index, state in right.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(left.optimizer["state"][index][name], value), (index, name)


def test_two_ranks_are_one_with_two_micro_batches_bit_for_bit(tmp_path, finish, one_rank, without_speed):
    code, stdout, stderr = finish("--devices", 2, "--out", tmp_path / "two", "--json")
    assert code == 0, stderr
    assert re.search(r'"step": 12,\n', stdout) and stdout.count('"run"') == 1
    assert stderr.count("step 12/12") == 1
    two = Run(tmp_path / "two")
    assert two.status()["state"] == "done"
    assert_equal(two, one_rank, without_speed)
    assert {"perf/tokens_per_s", "perf/mfu"} <= set(two.metrics()[-1])


@pytest.mark.slow
def test_torchrun_needs_no_devices(tmp_path, finish, one_rank, without_speed):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sinkpretrain")
    code, stdout, stderr = finish("--out", tmp_path / "two", launcher=torchrun)
    assert code == 0, stderr
    assert len(stdout.splitlines()) == 1
    assert_equal(Run(tmp_path / "two"), one_rank, without_speed)
    code, stdout, stderr = finish("--out", tmp_path / "two", launcher=torchrun)
    assert code == 1  # torchrun's own
    assert stderr.count("holds a run already") == 1


@pytest.mark.slow
def test_four_ranks_follow_the_same_curve(tmp_path, finish, one_rank):
    code, _, stderr = finish("--devices", 4, "--out", tmp_path / "four")
    assert code == 0, stderr
    four = Run(tmp_path / "four")
    np.testing.assert_allclose(losses(four), losses(one_rank), rtol=FOUR_RANKS)
    for name in ("val/loss", "sink/first_token_mean", "rank/effective_mean", "optim/lr"):
        np.testing.assert_allclose(four.series(name)[1], one_rank.series(name)[1], rtol=FOUR_RANKS)
    assert [row["step"] for row in four.metrics()] == [row["step"] for row in one_rank.metrics()]


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_and_the_run_goes_on_with_another_number(
    tmp_path, start, finish, one_rank, without_speed, reaches, processes_of
):
    """SIGUSR1 to rank 1 alone stops both at the same step; a single process goes on, on the same windows."""
    run = Run(tmp_path / "run")
    process = start("--devices", 2, "--out", run.root, fault="SIGUSR1:1:5")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert stderr.count("stopped by SIGUSR1 and saved at step 5") == 1
    assert (run.status()["state"], checkpoints.steps(run.checkpoints)) == ("preempted", [4, 5])
    assert not processes_of(run.root)
    written = run.config_path.read_text()
    code, _, stderr = finish("--resume", run.root, "--devices", 1)
    assert code == 0, stderr
    assert run.config_path.read_text() == written and run.config().devices == 2
    assert without_speed(run) == without_speed(one_rank)


@pytest.mark.slow
@pytest.mark.parametrize("then", [2, 1])
def test_dropout_is_that_of_one_rank_also_after_a_stop(tmp_path, start, finish, small_config, without_speed, then):
    """Two ranks stopped at step 5 and gone on by two, or by one, against one rank that was never stopped."""
    from sinkpretrain.training.train import train

    whole = train(small_config({"micro_batch_size": 4, "model": {"dropout": 0.2}}), tmp_path / "whole")
    run = Run(tmp_path / "run")
    process = start("--devices", 2, "--model.dropout", 0.2, "--out", run.root, fault="SIGUSR1:1:5")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert {len(state) for state in checkpoints.read(run.checkpoints, 5).random.values()} == {2}
    code, _, stderr = finish("--resume", run.root, "--devices", then)
    assert code == 0, stderr
    assert_equal(run, whole, without_speed)


@pytest.mark.slow
def test_ctrl_c_reaches_all_ranks_once(tmp_path, start, reaches, processes_of):
    run = Run(tmp_path / "run")
    process = start("--devices", 2, "--out", run.root, "--tokens", 10**7, "--probes.every", 10**6)
    reaches(run, 20)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # as a terminal and a launcher would
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.count("stopped by SIGINT") == 1
    step = run.status()["step"]
    assert run.status()["state"] == "preempted"
    assert checkpoints.problem(checkpoints.path_of(run.checkpoints, step)) is None
    assert not processes_of(run.root)
