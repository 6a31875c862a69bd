"""A learned sink logit a head, as in gpt-oss: mass can leave the row without a token to hold it."""

from typing import Any

import torch
from torch import Tensor, nn

from sinkpretrain.attention.base import AttentionShape, AttentionWeights, softmax_beside


class LearnedSink(AttentionWeights):
    """A_ij = exp(s_ij) / (exp(sink_h) + sum_j exp(s_ij)); the sink logit is unscaled, kept in float32, init 0."""

    rows_sum_to_one = False

    def __init__(self, shape: AttentionShape, options: Any = None) -> None:
        super().__init__(shape, options)
        self.sink_H = nn.Parameter(torch.zeros(shape.n_heads))

    def weights(self, scores_BHRS: Tensor, visible: Tensor, q_BRHD: Tensor) -> Tensor:
        """Softmax in which the head's sink logit takes part and is dropped."""
        return softmax_beside(scores_BHRS, visible, self.sink_H.to(scores_BHRS.dtype)[:, None, None])
