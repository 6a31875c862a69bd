"""The configuration of a run: frozen dataclasses, each refusing what it cannot mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError, check
from sinkpretrain.mappings import build, merge, read_yaml
from sinkpretrain.model_config import AttentionConfig as AttentionConfig
from sinkpretrain.model_config import ModelConfig as ModelConfig
from sinkpretrain.shapes import plain


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tokens, in which order, and what the first token of a window or document is."""

    store: str = ""
    seed: int = 0
    bos: Literal["none", "document", "window"] = "none"
    document_mask: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse combinations without a meaning."""
        check(self.workers >= 0, "data.workers", self.workers, ">= 0")
        if self.bos == "window" and self.document_mask:
            raise ConfigError(
                "data.bos: 'window' gives a BOS to the first document of a window only, which data.document_mask "
                "would hide from the others; use bos: document, or document_mask: false"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. `decay: linear` leaves norms, gains, biases and embeddings (a tied head too) alone; `all` decays all."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay: Literal["linear", "all"] = "linear"
    clip: float | None = 1.0  # l2 norm of the whole gradient; null: no clipping

    def __post_init__(self) -> None:
        """Refuse what AdamW cannot use."""
        check(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "> 0")
        for name in ("beta1", "beta2"):
            check(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "0 <= value < 1")
        check(self.eps > 0, "optimizer.eps", self.eps, "> 0")
        check(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, ">= 0")
        check(self.clip is None or self.clip > 0, "optimizer.clip", self.clip, "> 0, or null")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over optimizer steps: linear warmup, then `constant`, `cosine` or warmup-stable-decay (`wsd`)."""

    shape: Literal["constant", "cosine", "wsd"] = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1  # of the peak, at the last step (cosine, wsd)
    decay_fraction: float = 0.2  # of all steps, the linear decay at the end (wsd)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check(self.warmup_steps >= 0, "schedule.warmup_steps", self.warmup_steps, ">= 0")
        for name in ("final_fraction", "decay_fraction"):
            check(0 <= getattr(self, name) <= 1, f"schedule.{name}", getattr(self, name), "0 <= value <= 1")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What happens to a step whose update would do harm: the run stops before it, or leaves it out and goes on.

    A spike is a loss far above those of the steps before it: by `spike_deviations` of their standard deviations, and by
    `spike_nats`.
    """

    nonfinite: Literal["stop", "skip"] = "stop"  # a NaN or infinite loss or gradient
    spike: Literal["stop", "skip", "off"] = "stop"
    spike_deviations: float = 6.0
    spike_nats: float = 1.0  # nats a token
    patience: int = 10  # steps left out in a row; one more stops the run

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("spike_deviations", "spike_nats"):
            check(getattr(self, name) > 0, f"guard.{name}", getattr(self, name), "> 0")
        check(self.patience >= 1, "guard.patience", self.patience, ">= 1 step")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Validation on the same fixed windows of the held-out documents each time."""

    every: int = 250  # optimizer steps; the first and the last step are always validated
    windows: int = 64

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check(self.every >= 1, "validation.every", self.every, ">= 1 step")
        check(self.windows >= 1, "validation.windows", self.windows, ">= 1")


@dataclass(frozen=True, kw_only=True)
class ProbesConfig:
    """Which sink metrics are measured in training, when, and on how many held-out windows."""

    every: int = 500  # optimizer steps, beside the log-spaced ones
    log_spaced: bool = True  # also at steps 0, 1, 2, 4, 8, ...
    windows: int = 16
    metrics: list[str] = field(
        default_factory=lambda: [
            "first_token_attention",
            "sink_rate",
            "effective_rank",
            "dominance_ratio",
            "massive_activation",
            "representation_norm",
            "positional_variance",
            "super_neurons",
        ]
    )

    def __post_init__(self) -> None:
        """Refuse values out of range and unknown metrics."""
        check(self.every >= 1, "probes.every", self.every, ">= 1 step")
        check(self.windows >= 1, "probes.windows", self.windows, ">= 1")
        for name in self.metrics:
            check(name in registry.names("metrics"), "probes.metrics", name, ", ".join(registry.names("metrics")))


@dataclass(frozen=True, kw_only=True)
class CheckpointsConfig:
    """When checkpoints are written and how many are kept; the last step always gets one."""

    every: int = 1000  # optimizer steps
    keep: int = 2

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check(self.every >= 1, "checkpoints.every", self.every, ">= 1 step")
        check(self.keep >= 2, "checkpoints.keep", self.keep, ">= 2, so that one is always whole")


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Weights & Biases mirrors the run record. `auto`: online when logged in, offline otherwise."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "sinkpretrain"


LONGEST_NAME = 200  # characters: it becomes a folder

# Keys that say where and with what a run is worked on, not which run it is: it may go on under others.
PLACEMENT = ("devices", "nodes", "strategy", "timeout", "micro_batch_size", "data.workers", "wandb")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run."""

    name: str = "run"
    variant: str = "model"
    seed: int = 0  # initial weights
    tokens: int = 1_000_000  # budget, rounded down to whole optimizer steps
    global_batch_size: int = 32  # windows an optimizer step, over all devices
    micro_batch_size: int = 32  # windows a forward pass, at most
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1  # on each node
    nodes: int = 1
    strategy: Literal["ddp", "sharded"] = "ddp"  # sharded: weights and AdamW's moments divided over the devices
    timeout: float = 600.0  # seconds that the processes of a run wait for each other
    log_every: int = 10  # optimizer steps between lines of the training loss
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        """Refuse values out of range and a batch that does not divide."""
        for name in ("name", "variant"):
            given, allowed = getattr(self, name), f"{plain.__doc__}, of {LONGEST_NAME} characters at most"
            check(plain(given) and len(given) <= LONGEST_NAME, name, given, allowed)
        for name in ("tokens", "global_batch_size", "micro_batch_size", "devices", "nodes", "log_every"):
            check(1 <= getattr(self, name) < 2**63, name, getattr(self, name), "1 <= value < 2^63")
        check(0 <= self.seed < 2**32, "seed", self.seed, "0 <= value < 2^32")
        check(0 <= self.data.seed < 2**32, "data.seed", self.data.seed, "0 <= value < 2^32")
        check(self.timeout > 0, "timeout", self.timeout, "> 0 seconds")
        if self.global_batch_size % (self.devices * self.nodes):
            raise ConfigError(
                f"global_batch_size: {self.global_batch_size} is not a multiple of devices x nodes = "
                f"{self.devices} x {self.nodes}; change one of them"
            )
        check(self.steps >= 1, "tokens", self.tokens, f">= {self.tokens_per_step} (one optimizer step)")

    @property
    def tokens_per_step(self) -> int:
        """Input tokens of one optimizer step, over all devices."""
        return self.global_batch_size * self.model.context_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // self.tokens_per_step

    @property
    def windows_per_pass(self) -> int:
        """Windows of a training pass: the most that divide a device's share of the global batch, at the set bound."""
        share = self.global_batch_size // (self.devices * self.nodes)
        return max(size for size in range(1, min(share, self.micro_batch_size) + 1) if share % size == 0)

    @property
    def accumulation(self) -> int:
        """Micro-batches a device and optimizer step."""
        return self.global_batch_size // (self.windows_per_pass * self.devices * self.nodes)


def load_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Config:
    """One run's configuration from a YAML file and overrides.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range, with what is allowed.
    """
    return build(Config, merge(read_yaml(path), overrides or {}), "")
