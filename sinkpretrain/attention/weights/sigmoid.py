"""Sigmoid attention: each weight on its own, without a sum over keys (2409.04431; 2410.10781, section 6)."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkpretrain.attention.base import AttentionShape, AttentionWeights


@dataclass(frozen=True, kw_only=True)
class SigmoidOptions:
    """`bias: minus_log_context` starts a row of n keys near a mass of one (2409.04431); `zero` is 2410.10781's."""

    bias: Literal["zero", "minus_log_context"] = "zero"
    normalize: bool = False


class Sigmoid(AttentionWeights):
    """A_ij = sigma(s_ij + b), b = 0 or -ln(context length); with `normalize` divided by the row's sum."""

    Options = SigmoidOptions
    rows_sum_to_one = False

    def __init__(self, shape: AttentionShape, options: Any = None) -> None:
        super().__init__(shape, options or SigmoidOptions())
        self.bias = -math.log(shape.context_length) if self.options.bias == "minus_log_context" else 0.0
        self.rows_sum_to_one = self.options.normalize  # type: ignore[misc]

    def weights(self, scores_BHRS: Tensor, visible: Tensor, q_BRHD: Tensor) -> Tensor:
        """Sigmoid of each visible score. A normalised row is a softmax of log-sigmoids: no division by an empty sum."""
        scores_BHRS = scores_BHRS + self.bias
        if self.options.normalize:
            return F.logsigmoid(scores_BHRS).masked_fill(~visible, -torch.inf).softmax(dim=-1)
        return scores_BHRS.sigmoid().masked_fill(~visible, 0.0)
