"""Speed: tokens a second and the share of the device's peak that the model's own operations use."""

import time

import lightning as L
import torch

from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule

# Dense bf16 peak of the data sheets, operations a second, by a part of the device's name.
DATA_SHEET_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "3090": 71e12}


class Throughput(StepCallback):
    """Writes `perf/tokens_per_s` (all devices) and `perf/mfu` (a fraction) beside each logged training loss.

    MFU = tokens/s x training operations a token (`model.flops`) / (devices x peak). The peak is the data sheet's for
    a known GPU (bf16), else what a large float32 matrix product reaches here. Validation, probes and checkpoints do not
    count; the first step of a process, which warms up, does not either. The times are this rank's.
    """

    def __init__(self, peak: float, flops_per_token: float) -> None:
        self.peak = peak
        self.flops_per_token = flops_per_token
        self._seconds = 0.0
        self._steps = 0
        self._started = 0.0
        self._warm = False

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Start the clock of a micro-batch."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Stop it; a finished step may report."""
        self._seconds += time.perf_counter() - self._started
        super().on_train_batch_end(trainer, pl_module)

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Report since the last report."""
        if not self._warm:
            self._warm, self._seconds = True, 0.0
            return
        self._steps += 1
        if "train/loss" not in module.row:
            return
        speed = self._steps * module.config.tokens_per_step / self._seconds
        module.row["perf/tokens_per_s"] = speed
        module.row["perf/mfu"] = speed * self.flops_per_token / (trainer.world_size * self.peak)
        self._seconds, self._steps = 0.0, 0


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Operations a second that a device can do at most, and where the number comes from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in DATA_SHEET_PEAKS.items():
            if part in name:
                return peak, f"data sheet of {name}, dense bf16"
    threads = torch.get_num_threads()
    return _measured_peak(device), f"float32 matrix product measured on {device.type}, {threads} threads"


def _measured_peak(device: torch.device, size: int = 1024, rounds: int = 5) -> float:
    """The best of a few square matrix products."""
    left, right = torch.randn(2, size, size, device=device, generator=torch.Generator(device).manual_seed(0))
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        float((left @ right)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
