"""Which process of a run this is, by torchrun's environment variables, whoever set them."""

import os
from dataclasses import dataclass, replace

from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One process among those of a run; a process alone is rank 0 of 1."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its node
    local_world_size: int = 1

    @property
    def nodes(self) -> int:
        """Nodes of the run."""
        return self.world_size // self.local_world_size

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def from_environment() -> Place | None:
    """The place that torchrun, `supervisor` or a Slurm task gave this process; None where none did.

    Raises:
        ConfigError: variables are missing beside RANK, or the nodes differ in their number of processes.
    """
    if "RANK" not in os.environ:
        return None
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise ConfigError(
            f"RANK is set in the environment, {', '.join(missing)} is not; torchrun sets all of "
            f"{', '.join(VARIABLES)}: set them all, or unset RANK for a process alone"
        )
    rank, world_size, local_rank, local_world_size = (int(os.environ[name]) for name in VARIABLES[:4])
    if world_size % local_world_size:
        raise ConfigError(
            f"WORLD_SIZE: {world_size} is not a multiple of LOCAL_WORLD_SIZE ({local_world_size}); start as many "
            "processes on each node"
        )
    return Place(rank=rank, world_size=world_size, local_rank=local_rank, local_world_size=local_world_size)


def placed(config: Config) -> Config:
    """The configuration with `devices` and `nodes` of the environment; without one, of a process alone.

    Raises:
        ConfigError: this process is alone and several are asked for, or the global batch does not divide over them.
    """
    place = from_environment()
    if place is not None:
        return replace(config, devices=place.local_world_size, nodes=place.nodes)
    refuse_several_nodes(config)
    if config.devices > 1:
        raise ConfigError(
            f"devices: {config.devices} need a process each; start them by the command sinkpretrain train, or by "
            f"torchrun --nproc-per-node {config.devices}"
        )
    return config


def refuse_several_nodes(config: Config) -> None:
    """Raise where a run over several nodes is started as a process alone.

    Raises:
        ConfigError: with the command that starts it.
    """
    if config.nodes > 1:
        raise ConfigError(
            f"nodes: {config.nodes} need a process for each device on each node; start on every node: torchrun "
            f"--nnodes {config.nodes} --nproc-per-node {config.devices} --rdzv-backend c10d --rdzv-endpoint "
            "FIRST_NODE:29500 -m sinkpretrain train ...; on Slurm use sinkpretrain sweep --launcher slurm"
        )
