"""The parts of a Llama that no variant changes: RMSNorm, RoPE, SwiGLU.

Shapes use B batch, T positions, H heads, D head size, C model width, F feed-forward width.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinkpretrain.config import ModelConfig
from sinkpretrain.taps import Tap


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last axis, in at least float32 (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """The normed input, in its own dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (F.rms_norm(wide, self.gain.shape, eps=self.eps) * self.gain).to(x.dtype)


class RoPE(nn.Module):
    """Rotary position embedding in the half-split layout of Llama on the Hugging Face hub (2104.09864)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.size, self.theta, self.scaling = config.head_size, config.rope_theta, config.rope_scaling

    def table(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [T] or [B, T], with an axis for the heads.

        Made anew from the positions: a stored table would be rounded with a model cast to bfloat16, and empty in a
        model built on the meta device.
        """
        exponent = torch.arange(0, self.size, 2, dtype=torch.float32, device=position.device) / self.size
        frequency = scaled_frequency(1.0 / self.theta**exponent, self.scaling)
        angle = position[..., None].float() * frequency
        angle = torch.cat([angle, angle], dim=-1)[..., None, :]
        return angle.cos(), angle.sin()

    @staticmethod
    def rotate(x_BTHD: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Queries or keys turned by the angles of their positions, in at least float32."""
        cos, sin = table
        first, second = x_BTHD.chunk(2, dim=-1)
        return (x_BTHD * cos + torch.cat([-second, first], dim=-1) * sin).to(x_BTHD.dtype)


def scaled_frequency(frequency: Tensor, scaling: dict[str, Any] | None) -> Tensor:
    """RoPE's angles a token, stretched to a longer context by `ModelConfig.rope_scaling`.

    `llama3` blends linearly in the turns that a frequency makes over the original context: those that make fewer than
    `low_freq_factor` are divided by the factor, those that make more than `high_freq_factor` are kept.
    """
    if scaling is None:
        return frequency
    if scaling["name"] == "linear":
        return frequency / float(scaling["factor"])
    factor, low, high = (float(scaling[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = int(scaling["original_context_length"]) / (2 * math.pi / frequency)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * frequency / factor + kept * frequency


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_up x) (2002.05202)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.w_gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.w_up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.w_down = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.tap_in = Tap("mlp_in", layer)
        self.tap_hidden = Tap("mlp_hidden", layer)
        self.tap_out = Tap("mlp_out", layer)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """What the feed-forward layer adds to the residual stream."""
        x_BTC = self.tap_in(x_BTC)
        hidden_BTF = self.tap_hidden(F.silu(self.w_gate(x_BTC)) * self.w_up(x_BTC))
        out_BTC: Tensor = self.tap_out(self.w_down(hidden_BTF))
        return out_BTC
