"""Which columns of a head are sinks.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkpretrain.attention.base import AttentionWeights, Mask
from sinkpretrain.calibration.settings import Settings
from sinkpretrain.metrics.attention_score import uniform_score
from sinkpretrain.metrics.base import at_least_float32
from sinkpretrain.probing import document_lengths


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The rows that detection reads: all, or with a shared prompt those of the prompt. B may be 1."""

    counted_BT: Tensor
    position_BT: Tensor  # within the token's document
    length_BT: Tensor  # N: counted tokens of that document
    queries_BT: Tensor  # counted rows that see the token: N - k

    @classmethod
    def of(cls, mask: Mask) -> "Prompt":
        """What a mask says of the tokens."""
        position_BT = mask.position.expand(1 if mask.document_BT is None else -1, -1)
        if mask.document_BT is None:
            counted_BT = torch.ones_like(position_BT, dtype=torch.bool)
            length_BT = torch.full_like(position_BT, mask.tokens)
        elif mask.shared_prompt:
            counted_BT = mask.document_BT == 0
            length_BT = counted_BT.sum(dim=1, keepdim=True).expand_as(position_BT)
        else:
            counted_BT = torch.ones_like(position_BT, dtype=torch.bool)
            length_BT = document_lengths(position_BT)
        return cls(
            counted_BT=counted_BT,
            position_BT=position_BT,
            length_BT=length_BT,
            queries_BT=torch.where(counted_BT, length_BT - position_BT, 0),
        )


def sinks_of(score_BHS: Tensor, prompt: Prompt, settings: Settings) -> Tensor:
    """Whether each column is a sink of each head, bool [B, H, S], from its attention scores.

    A score that is not a number is no sink: the model is broken, and stays so.
    """
    if settings.detection == "paper":
        limit_BS = settings.alpha / prompt.length_BT.clamp(min=1)
    elif settings.detection == "causal_null":
        counted_position_BS = prompt.position_BT.minimum(prompt.length_BT - 1).clamp(min=0)
        limit_BS = settings.alpha * uniform_score(counted_position_BS, prompt.length_BT.clamp(min=1))
    else:
        limit_BS = torch.full_like(prompt.length_BT, settings.threshold, dtype=score_BHS.dtype)
    may_be_BS = prompt.counted_BT & (prompt.position_BT > 0)
    return (score_BHS > limit_BS[:, None]) & may_be_BS[:, None]


def attention_scores(
    kind: AttentionWeights, q_BTHD: Tensor, k_BSGD: Tensor, mask: Mask, prompt: Prompt, row_normalised: bool
) -> Tensor:
    """a[k] = mean over the counted rows i >= k of A[i, k], [B, H, S], in one pass over blocks of rows.

    With `row_normalised` of rows divided by their sum; rows without mass are left out of the mean.
    """
    received_BHS, queries_BHS = torch.zeros((), device=q_BTHD.device), prompt.queries_BT[:, None]
    without_mass_BHS = torch.zeros((), device=q_BTHD.device)
    normalise = row_normalised and not kind.rows_sum_to_one
    for row, weights_BHRS in kind.rows_plain(q_BTHD, k_BSGD, mask):
        last = row + weights_BHRS.shape[2]
        counted_B1R1 = prompt.counted_BT[:, None, row:last, None]
        weights_BHRS = at_least_float32(weights_BHRS)
        if normalise:
            mass_BHR1 = weights_BHRS.sum(dim=-1, keepdim=True)
            weights_BHRS = weights_BHRS / mass_BHR1.masked_fill(mass_BHR1 == 0, 1.0)
            sees_BHRS = F.pad(mask.visible(row, last), (0, mask.tokens - last)) & counted_B1R1
            without_mass_BHS = without_mass_BHS + (sees_BHRS & (mass_BHR1 == 0)).sum(dim=2)
        received_BHS = received_BHS + torch.where(counted_B1R1, weights_BHRS, 0.0).sum(dim=2)
    return received_BHS / (queries_BHS - without_mass_BHS).clamp(min=1)
