import dataclasses

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from sinkpretrain.config import Config, DataConfig, ModelConfig
from sinkpretrain.data.datamodule import MicroBatches, WindowsDataModule
from sinkpretrain.data.windows import Batch, Windows
from sinkpretrain.errors import DataError

STEPS, GLOBAL, MICRO, LENGTH = 5, 12, 3, 16


def make_config(**keys):
    data = DataConfig(workers=keys.pop("workers", 0), seed=3, bos=keys.pop("bos", "none"), document_mask=True)
    return Config(
        tokens=STEPS * GLOBAL * LENGTH,
        global_batch_size=GLOBAL,
        micro_batch_size=MICRO,
        model=ModelConfig(context_length=keys.pop("context_length", LENGTH)),
        data=data,
        **keys,
    )


@pytest.fixture(scope="module")
def expected(store):
    """The windows of every step, straight from the order."""
    windows = Windows.of(store, "train", make_config())
    return [windows.batch(windows.ids(step, GLOBAL)) for step in range(STEPS)]


def joined(batches, field="tokens_BT"):
    return torch.cat([getattr(batch, field) for batch in batches])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first_step", [0, 3])
def test_micro_batches_come_in_order_for_any_workers_and_after_a_resume(store, expected, workers, first_step):
    loader = WindowsDataModule(store, make_config(workers=workers), first_step).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == (STEPS - first_step) * GLOBAL // MICRO
    assert all(isinstance(batch, Batch) and len(batch.tokens_BT) == MICRO for batch in batches)
    for field in Batch._fields:
        assert torch.equal(joined(batches, field), joined(expected[first_step:], field))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_windows_of_a_step_are_the_same_for_any_number_of_ranks(store, expected, world_size):
    windows, config = Windows.of(store, "train", make_config()), make_config(devices=world_size)
    ranks = [MicroBatches(windows, config, rank, world_size) for rank in range(world_size)]
    accumulation = GLOBAL // MICRO // world_size
    assert {len(rank) for rank in ranks} == {STEPS * accumulation}
    for step in range(STEPS):
        numbers = range(step * accumulation, (step + 1) * accumulation)
        found = joined([rank[number] for number in numbers for rank in ranks])
        assert torch.equal(found, expected[step].tokens_BT)


def test_a_configuration_of_other_devices_is_a_mistake_of_ours(store):
    windows = Windows.of(store, "train", make_config())
    with pytest.raises(AssertionError, match="must be that of these processes"):
        MicroBatches(windows, make_config(devices=3), 0, 2)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_validation_batches_are_whole_and_the_same_for_any_number_of_ranks(store, world_size):
    """Each window is on exactly one rank, in the batch that it has in one process."""
    module = WindowsDataModule(store, make_config())
    alone = list(module.validation_batches(7))
    assert [len(batch.tokens_BT) for batch in alone] == [MICRO, MICRO, 1]
    for rank in range(world_size):
        own = list(module.validation_batches(7, rank, world_size))
        assert len(own) == len(alone[rank::world_size])
        assert all(
            torch.equal(mine.tokens_BT, whole.tokens_BT)
            for mine, whole in zip(own, alone[rank::world_size], strict=True)
        )


def test_a_rank_may_have_no_validation_window(store):
    module = WindowsDataModule(store, make_config())
    assert list(module.validation_batches(1, rank=1, world_size=2)) == []
    with pytest.raises(DataError, match="were asked for"):
        module.validation_batches(100_000)


def test_a_context_longer_than_the_data_is_refused(store):
    config = make_config()
    config = dataclasses.replace(config, tokens=10**9, model=ModelConfig(context_length=10**6))
    with pytest.raises(
        DataError, match=r"its train split has .* too few for one window of model.context_length 1,000,000"
    ):
        WindowsDataModule(store, config)


class Recorder(L.LightningModule):
    """Records what reaches a training step; learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch)
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lightning_trainer_sees_the_order_and_the_type(store, expected, workers, tmp_path):
    recorder = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(recorder, datamodule=WindowsDataModule(store, make_config(workers=workers)))
    assert torch.equal(joined(recorder.seen), joined(expected))
    assert all(isinstance(batch, Batch) for batch in recorder.seen)


class StubTrainer:
    """A trainer of several processes, as far as the data module looks at one; a real one needs the processes."""

    def __init__(self, rank, world_size, replaces_sampler):
        self.global_rank, self.world_size = rank, world_size
        self._accelerator_connector = type("Connector", (), {"use_distributed_sampler": replaces_sampler})


def test_a_rank_of_a_trainer_gets_its_share(store, expected):
    module = WindowsDataModule(store, make_config(devices=2))
    module.trainer = StubTrainer(1, 2, replaces_sampler=False)
    batches = list(module.train_dataloader())
    share = expected[0].tokens_BT.reshape(2, 2, MICRO, LENGTH)[:, 1].reshape(-1, LENGTH)
    assert torch.equal(joined(batches[:2]), share)


def test_a_trainer_that_would_replace_the_order_is_refused(store):
    """The attribute that is looked at is the one by which Lightning decides."""
    module = WindowsDataModule(store, make_config())
    module.trainer = StubTrainer(0, 2, replaces_sampler=True)
    with pytest.raises(AssertionError, match="use_distributed_sampler=False"):
        module.train_dataloader()
    for given in (True, False):
        trainer = L.Trainer(accelerator="cpu", use_distributed_sampler=given, logger=False, enable_checkpointing=False)
        assert trainer._accelerator_connector.use_distributed_sampler is given
    assert not isinstance(WindowsDataModule(store, make_config()).train_dataloader().sampler, DistributedSampler)


def test_window_ids_are_int64(store):
    assert Windows.of(store, "train", make_config()).ids(0, 4).dtype == np.int64
