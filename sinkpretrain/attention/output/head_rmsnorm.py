"""Head-wise RMSNorm before W_O (2605.06611, section 5): every position and head enters W_O at the same scale."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinkpretrain.attention.base import AttentionShape, OutputTransform

EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class HeadRMSNormOptions:
    """The learned gain: one vector for all heads of a layer (`shared`, the paper's), one a head, or none."""

    gain: Literal["shared", "per_head", "none"] = "shared"


class HeadRMSNorm(OutputTransform):
    """o = z / rms(z) * g for each head and position, in at least float32; g learned, 1 at the start, never decayed."""

    Options = HeadRMSNormOptions

    def __init__(self, shape: AttentionShape, options: Any = None) -> None:
        super().__init__(shape, options or HeadRMSNormOptions())
        sizes = {"shared": (shape.head_size,), "per_head": (shape.n_heads, shape.head_size)}
        size = sizes.get(self.options.gain)
        self.gain = nn.Parameter(torch.ones(size)) if size else None

    def forward(self, mixed_BTHD: Tensor, x_BTC: Tensor) -> Tensor:
        """Mixed values of unit root mean square, times the gain."""
        wide_BTHD = mixed_BTHD.to(torch.promote_types(mixed_BTHD.dtype, torch.float32))
        normed_BTHD = F.rms_norm(wide_BTHD, (self.shape.head_size,), eps=EPS)
        if self.gain is not None:
            normed_BTHD = normed_BTHD * self.gain
        return normed_BTHD.to(mixed_BTHD.dtype)
