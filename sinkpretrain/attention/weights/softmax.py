"""Softmax attention (Vaswani et al. 2017)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sinkpretrain.attention.base import AttentionWeights, Mask


class Softmax(AttentionWeights):
    """A_ij = exp(s_ij) / sum_j exp(s_ij) over the visible keys; each row sums to one."""

    rows_sum_to_one = True
    is_plain_softmax = True

    def weights(self, scores_BHRS: Tensor, visible: Tensor, q_BRHD: Tensor) -> Tensor:
        """Softmax over the visible keys."""
        return scores_BHRS.masked_fill(~visible, -torch.inf).softmax(dim=-1)

    def fused(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor:
        """Scaled dot-product attention; with documents the mask is dense, shared by all layers and heads."""
        q_BHTD, k_BGSD, v_BGSD = (rearrange(x, "b t h d -> b h t d") for x in (q_BTHD, k_BSGD, v_BSGD))
        mixed_BHTD = F.scaled_dot_product_attention(
            q_BHTD,
            k_BGSD,
            v_BGSD,
            attn_mask=None if mask.is_causal_only else mask.dense,
            is_causal=mask.is_causal_only,
            enable_gqa=self.shape.n_heads != self.shape.kv_heads,
        )
        return rearrange(mixed_BHTD, "b h t d -> b t h d")
