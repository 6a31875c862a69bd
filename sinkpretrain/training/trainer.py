"""The Lightning trainer of a run: devices, strategy, precision. Lightning starts no processes and knows no Slurm."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError
from sinkpretrain.training.placement import Place, from_environment
from sinkpretrain.training.supervisor import is_supervised

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


class RankEnvironment(TorchElasticEnvironment):
    """What Lightning asks about this process, from torchrun's variables.

    `sees_own_device`: the launcher showed each process one GPU, its own, as submitit does; it is then device 0 of 1.
    """

    def __init__(self, place: Place, sees_own_device: bool) -> None:
        super().__init__()
        self.place, self.sees_own_device = place, sees_own_device

    def local_rank(self) -> int:
        """Which of the visible devices is this process's."""
        return 0 if self.sees_own_device else self.place.local_rank

    def node_rank(self) -> int:
        """Which node this process is on."""
        return self.place.rank // self.place.local_world_size


def make_trainer(config: Config, callbacks: list[Callback], steps: int) -> L.Trainer:
    """One endless epoch of `steps` updates; logging, validation and checkpoints are the callbacks' affair."""
    place = from_environment() or Place()
    own = sees_own_device(config)
    # Slurm's variables must not reach Lightning, which would requeue jobs by itself.
    plugin: ClusterEnvironment = LightningEnvironment() if place.world_size == 1 else RankEnvironment(place, own)
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=1,
        accumulate_grad_batches=config.accumulation,
        accelerator="gpu" if on_gpu(config) else "cpu",
        devices=1 if own else config.devices,
        num_nodes=place.world_size if own else config.nodes,
        strategy=_strategy(config),
        plugins=[plugin],
        precision=PRECISIONS[config.precision],
        callbacks=callbacks,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    # Its handler of SIGTERM broadcasts, which never ends where one rank alone got the signal.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _strategy(config: Config) -> Any:
    processes, timeout = config.devices * config.nodes, timedelta(seconds=config.timeout)
    if processes == 1:
        return "auto"
    if config.strategy == "sharded":
        return ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1, timeout=timeout)
    return DDPStrategy(broadcast_buffers=False, timeout=timeout)


def on_gpu(config: Config) -> bool:
    """Whether the run uses GPUs."""
    return config.accelerator == "gpu" or (config.accelerator == "auto" and torch.cuda.is_available())


def sees_own_device(config: Config) -> bool:
    """Whether a launcher other than `supervisor` showed each of several processes on a node one GPU, its own."""
    place = from_environment()
    several = place is not None and place.local_world_size > 1
    return several and on_gpu(config) and torch.cuda.device_count() == 1 and not is_supervised()


def refuse_impossible(config: Config) -> None:
    """Raise where the configuration asks for what these devices have not.

    Raises:
        ConfigError: too few GPUs, fp16 where its gradient scaler does not work, or sharding over a single device.
    """
    if on_gpu(config) and torch.cuda.device_count() < config.devices and not sees_own_device(config):
        raise ConfigError(f"devices: {config.devices} GPUs were asked for, {torch.cuda.device_count()} are here")
    if config.precision == "fp16" and not on_gpu(config):
        raise ConfigError("precision: fp16 needs a GPU (its gradient scaler does); use bf16 or fp32 on a CPU")
    if config.strategy != "sharded":
        return
    if config.devices * config.nodes == 1:
        raise ConfigError(
            "strategy: 'sharded' has no effect on a single device; give --devices N, start it with torchrun, or set "
            "--strategy ddp"
        )
    if config.precision == "fp16":
        raise ConfigError("precision: fp16 does not go with strategy 'sharded'; use bf16 or fp32")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advice out of the user's terminal; its warnings about our data loader do not apply."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
