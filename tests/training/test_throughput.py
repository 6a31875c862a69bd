import time
from types import SimpleNamespace

import pytest
import torch

from sinkpretrain.config import Config, ModelConfig
from sinkpretrain.model.flops import flops_per_token
from sinkpretrain.training.callbacks.throughput import Throughput, peak_flops


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.value)
    return now


def test_speed_counts_steps_after_the_first_and_nothing_between_them(clock):
    config = Config(model=ModelConfig(vocab_size=64), global_batch_size=4, micro_batch_size=2)
    module = SimpleNamespace(config=config, row={}, step_just_finished=False)
    trainer = SimpleNamespace(world_size=2)
    throughput = Throughput(peak=1e12, flops_per_token=flops_per_token(config.model))

    def micro_batch(seconds, finishes):
        throughput.on_train_batch_start(trainer, module)
        clock.value += seconds
        module.step_just_finished = finishes
        throughput.on_train_batch_end(trainer, module)
        clock.value += 50.0  # validation, probes, checkpoints

    for seconds, finishes in ((9.0, False), (9.0, True), (1.0, False), (1.0, True), (2.0, False)):
        micro_batch(seconds, finishes)
    module.row["train/loss"] = 3.0
    micro_batch(4.0, True)
    expected = 2 * config.tokens_per_step / 8.0
    assert module.row["perf/tokens_per_s"] == pytest.approx(expected)
    assert module.row["perf/mfu"] == pytest.approx(expected * flops_per_token(config.model) / 2e12)


def test_the_peak_of_a_known_gpu_is_its_data_sheet(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda", 0)) == (989e12, "data sheet of NVIDIA H100 80GB HBM3, dense bf16")


def test_the_peak_of_this_processor_is_measured():
    peak, source = peak_flops(torch.device("cpu"))
    assert 1e9 < peak < 1e14
    assert "measured on cpu" in source
