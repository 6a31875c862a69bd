"""A sigmoid gate on the mixed values, computed from the block's input (2505.06708)."""

from dataclasses import dataclass
from typing import Any, Literal

from einops import rearrange
from torch import Tensor, nn

from sinkpretrain.attention.base import AttentionShape, OutputTransform


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """One gate a head, or one an element of the head."""

    granularity: Literal["head", "element"] = "element"


class Gate(OutputTransform):
    """o = z * sigma(x W_g), x the block's normed input."""

    Options = GateOptions

    def __init__(self, shape: AttentionShape, options: Any = None) -> None:
        super().__init__(shape, options or GateOptions())
        gates = shape.n_heads * (shape.head_size if self.options.granularity == "element" else 1)
        self.projection = nn.Linear(shape.d_model, gates, bias=False)

    def forward(self, mixed_BTHD: Tensor, x_BTC: Tensor) -> Tensor:
        """Mixed values times their gates; a gate a head is the same for all its elements."""
        gate: Tensor = self.projection(x_BTC).sigmoid()
        return mixed_BTHD * rearrange(gate, "b t (h d) -> b t h d", h=self.shape.n_heads)
