"""A learned key a head that every query sees beside the real keys (K bias and KV bias of 2410.10781, section 6)."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import einsum
from torch import Tensor, nn

from sinkpretrain.attention.base import AttentionShape, AttentionWeights, Mask, fused_beside_key, softmax_beside


@dataclass(frozen=True, kw_only=True)
class KvBiasOptions:
    """What the mass on the learned key adds to the mixed values: nothing (`zero`) or a `learned` vector a head."""

    value: Literal["zero", "learned"] = "zero"


class KvBias(AttentionWeights):
    """A_ij = exp(s_ij) / (exp(q_i . k* / sqrt(D)) + sum_j exp(s_ij)), k* a learned key a head without RoPE."""

    Options = KvBiasOptions
    rows_sum_to_one = False
    random_parameters = {"key_HD": 0.02, "value_HD": 0.02}  # noqa: RUF012

    def __init__(self, shape: AttentionShape, options: Any = None) -> None:
        super().__init__(shape, options or KvBiasOptions())
        self.key_HD = nn.Parameter(torch.zeros(shape.n_heads, shape.head_size))
        self.value_HD = (
            nn.Parameter(torch.zeros(shape.n_heads, shape.head_size)) if self.options.value == "learned" else None
        )

    def weights(self, scores_BHRS: Tensor, visible: Tensor, q_BRHD: Tensor) -> Tensor:
        """Softmax in which the learned key takes part; its column is dropped."""
        product_BHR = einsum(q_BRHD, self.key_HD.to(q_BRHD.dtype), "b r h d, h d -> b h r")
        return softmax_beside(scores_BHRS, visible, product_BHR[..., None] / math.sqrt(self.shape.head_size))

    def combine(self, weights_BHRS: Tensor, v_BSGD: Tensor) -> Tensor:
        """The mixed values; the mass that is missing from a row sits on the learned key and brings its value."""
        mixed_BRHD = super().combine(weights_BHRS, v_BSGD)
        if self.value_HD is None:
            return mixed_BRHD
        missing_BHR = 1.0 - weights_BHRS.sum(dim=-1)
        return mixed_BRHD + einsum(missing_BHR, self.value_HD.to(weights_BHRS.dtype), "b h r, h d -> b r h d")

    def fused(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor | None:
        """SDPA beside the learned key."""
        if not mask.is_causal_only:
            return None
        value_HD = torch.zeros_like(self.key_HD) if self.value_HD is None else self.value_HD
        return fused_beside_key(q_BTHD, k_BSGD, v_BSGD, self.key_HD, value_HD)
