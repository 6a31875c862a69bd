"""What this machine's runs work on: one or more GPUs each, or cores of the processor of their own."""

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sinkpretrain.comparison.experiment import Member
from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError, check

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What one run works on. On GPUs it is not pinned to cores."""

    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them
    cores: tuple[int, ...] = ()
    threads: int = 1  # of each of its processes

    def __str__(self) -> str:
        if self.gpus:
            short = [gpu[:9] for gpu in self.gpus]  # GPU-8932f9 of a UUID
            return ",".join(short) if "-" in short[0] else f"GPU {','.join(short)}"
        return f"CPU {_ranges(self.cores)}"

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment of the run's process; an OMP_NUM_THREADS that the user set stays."""
        placed = {VISIBLE: ",".join(self.gpus)} if self.gpus else {}
        return {"OMP_NUM_THREADS": str(self.threads), **given, **placed}

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Processes that this thread starts inside have the slot's cores only, where the system can do that."""
        if not self.cores or not hasattr(os, "sched_setaffinity"):
            yield
            return
        before = os.sched_getaffinity(0)
        with suppress(OSError):  # a container may forbid it: the number of threads still holds
            os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            with suppress(OSError):
                os.sched_setaffinity(0, before)


class Pool:
    """The devices that are free, and how many runs may go on at a time.

    On GPUs each run has its own, unless `jobs` asks for more runs than fit: then they share GPUs in turn. On the
    processor `jobs` runs (default 1) have equal shares of the cores.

    Raises:
        ConfigError: a run needs more than is here; names the run, what it asks for and what is here.
    """

    def __init__(self, members: Sequence[Member], jobs: int | None, gpus: Sequence[str], cores: Sequence[int]) -> None:
        check(jobs is None or jobs >= 1, "--jobs", jobs, ">= 1")
        self._jobs, self._cores = jobs, cores
        self._loads = dict.fromkeys(gpus, 0)
        for member in members:
            self._refuse_too_much(member)
        widest = max((member.config.devices for member in members if self.on_gpus(member.config)), default=1)
        self._runs_a_gpu = 1 if jobs is None else math.ceil(jobs * widest / max(1, len(gpus)))
        self._gpu_runs = jobs or max(1, len(gpus) // widest)
        self._free = list(shares(cores, jobs or 1))
        self._running = 0

    def on_gpus(self, config: Config) -> bool:
        """Whether a run works on GPUs here."""
        return config.accelerator == "gpu" or (config.accelerator == "auto" and bool(self._loads))

    def take(self, config: Config) -> Slot | None:
        """A slot for a run, None while there is none free."""
        if self._jobs is not None and self._running >= self._jobs:
            return None
        slot = self._take_gpus(config) if self.on_gpus(config) else self._take_cores(config)
        self._running += slot is not None
        return slot

    def give_back(self, slot: Slot) -> None:
        """The run on this slot has ended."""
        self._running -= 1
        for gpu in slot.gpus:
            self._loads[gpu] -= 1
        if not slot.gpus:
            self._free.append(slot.cores)

    def _take_gpus(self, config: Config) -> Slot | None:
        open_to_more = [gpu for gpu, load in self._loads.items() if load < self._runs_a_gpu]
        if len(open_to_more) < config.devices:
            return None
        gpus = sorted(open_to_more, key=lambda gpu: self._loads[gpu])[: config.devices]
        for gpu in gpus:
            self._loads[gpu] += 1
        threads = len(self._cores) // (self._gpu_runs * config.devices)
        return Slot(gpus=tuple(gpus), threads=max(1, threads))

    def _take_cores(self, config: Config) -> Slot | None:
        if not self._free:
            return None
        cores = self._free.pop(0)
        return Slot(cores=cores, threads=max(1, len(cores) // config.devices))

    def _refuse_too_much(self, member: Member) -> None:
        config, here = member.config, len(self._loads)
        if config.nodes > 1:
            raise ConfigError(
                f"nodes: {member.folder} asks for {config.nodes}, this is one machine; set nodes: 1, or use --launcher "
                "slurm"
            )
        if self.on_gpus(config) and config.devices > here:
            raise ConfigError(
                f"devices: {member.folder} asks for {config.devices} GPUs, {here} {'is' if here == 1 else 'are'} here"
                f"{f' ({VISIBLE}={os.environ[VISIBLE]})' if VISIBLE in os.environ else ''}; give --devices-per-run "
                f"{max(1, here)}{'' if here else ' and --accelerator cpu'}, or use --launcher slurm"
            )


def gpus_here() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: numbers, UUIDs or MIG names."""
    import torch

    return gpu_names(torch.cuda.device_count(), os.environ.get(VISIBLE))


def gpu_names(count: int, visible: str | None) -> list[str]:
    """Names of the first `count` devices: the user's own where CUDA_VISIBLE_DEVICES is set."""
    if visible is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in visible.split(",")][:count]


def cores_here() -> list[int]:
    """The cores that this process may use, hardware threads of one core side by side."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0), key=_place)
    return list(range(os.cpu_count() or 1))


def shares(cores: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """The cores in `count` parts that share none and differ by one at most; one core each, in turn, if there are
    fewer.
    """
    if count > len(cores):
        return [(cores[index % len(cores)],) for index in range(count)]
    ends = [len(cores) * part // count for part in range(count + 1)]
    return [tuple(cores[start:end]) for start, end in itertools.pairwise(ends)]


def _place(core: int) -> tuple[int, int, int]:
    """Package, physical core and number of a hardware thread."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package, physical = ((topology / name).read_text() for name in ("physical_package_id", "core_id"))
        return int(package), int(physical), core
    except (OSError, ValueError):
        return 0, core, core


def _ranges(numbers: Sequence[int]) -> str:
    """`0-3,8` of 0, 1, 2, 3, 8."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
