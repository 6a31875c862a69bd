"""Softmax with one more in the denominator: a query may attend to nothing (Miller 2023)."""

from torch import Tensor

from sinkpretrain.attention.base import AttentionWeights, Mask, fused_beside_key, softmax_beside


class SoftmaxOffByOne(AttentionWeights):
    """A_ij = exp(s_ij) / (1 + sum_j exp(s_ij)); a row's missing mass is 1 / (1 + sum)."""

    rows_sum_to_one = False

    def weights(self, scores_BHRS: Tensor, visible: Tensor, q_BRHD: Tensor) -> Tensor:
        """Softmax in which a logit of zero takes part and is dropped."""
        return softmax_beside(scores_BHRS, visible, 0.0)

    def fused(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor | None:
        """SDPA beside a key of zeros (its score is zero) whose value is zero."""
        if not mask.is_causal_only:
            return None
        zero_HD = q_BTHD.new_zeros(self.shape.n_heads, self.shape.head_size)
        return fused_beside_key(q_BTHD, k_BSGD, v_BSGD, zero_HD, zero_HD)
