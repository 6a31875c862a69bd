"""ACT on plain softmax attention without any T x T matrix: two passes over keys by fast kernels.

With S the sinks of a head, s_k their mass in row k, and z' the mixed values over the other columns alone (a softmax
without S), row k of softmax weights gives

    z_k = (1 - beta s_k) z'_k + beta sum over S of A[k, s] v_s

A first pass over blocks of rows gives the column means, from which S is found, and the normaliser of each row; z' is a
fused pass in which the keys of S have no weight; the last term is a thin product over the columns of S, in blocks of
rows, since S may grow with T. Nothing is subtracted from the full output: that cancels where S holds nearly all of a
row.

Shapes use B batch, T positions, S key positions, R a block of query rows, H query heads, G key-value heads, D head
size, K sinks of a head (as many as the head with the most has).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from sinkpretrain.attention.base import Mask
from sinkpretrain.calibration.detection import Prompt

ROWS = 64  # query rows whose weights exist at a time: a block stays in a processor's cache
PADDING = 8  # channels added to mask columns; kernels want multiples of it
NEVER = -1e4  # a score this far below others has weight zero
NEARLY_ALL = 1 - 1e-3  # where S holds more of a row, rounding could decide whether the rest is negligible


@dataclass(frozen=True, kw_only=True)
class SoftmaxRows:
    """Queries and keys by head, and what the first pass found."""

    q_BHTD: Tensor  # divided by sqrt(D)
    k_BHSD: Tensor
    v_BHSD: Tensor
    largest_BHT1: Tensor  # the largest score of each row
    total_BHT1: Tensor  # sum over the row of exp(score - largest)
    score_BHS: Tensor  # attention score of each column

    @classmethod
    def of(cls, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask, prompt: Prompt) -> "SoftmaxRows":
        """The first pass over the rows."""
        batch, tokens, heads, size = q_BTHD.shape
        repeats = heads // k_BSGD.shape[2]
        q_BHTD = rearrange(q_BTHD, "b t h d -> b h t d").contiguous() / math.sqrt(size)
        k_BHSD, v_BHSD = (
            rearrange(x, "b s g d -> b g s d").repeat_interleave(repeats, dim=1).contiguous() for x in (k_BSGD, v_BSGD)
        )
        largest, total = [], []
        received_BHS = q_BHTD.new_zeros(batch, heads, tokens)
        for first in range(0, tokens, ROWS):
            last = min(first + ROWS, tokens)
            weights_BHRS = q_BHTD[:, :, first:last] @ k_BHSD[:, :, :last].transpose(-1, -2)
            _hide(weights_BHRS, mask, first)
            largest_BHR1 = weights_BHRS.amax(dim=-1, keepdim=True)
            weights_BHRS.sub_(largest_BHR1).exp_()
            total_BHR1 = weights_BHRS.sum(dim=-1, keepdim=True)
            share_BHR1 = prompt.counted_BT[:, None, first:last, None] / total_BHR1
            received_BHS[..., :last] += (share_BHR1.transpose(-1, -2) @ weights_BHRS)[:, :, 0]
            largest.append(largest_BHR1)
            total.append(total_BHR1)
        return cls(
            q_BHTD=q_BHTD,
            k_BHSD=k_BHSD,
            v_BHSD=v_BHSD,
            largest_BHT1=torch.cat(largest, dim=2),
            total_BHT1=torch.cat(total, dim=2),
            score_BHS=received_BHS / prompt.queries_BT[:, None].clamp(min=1),
        )

    def mixed(self, sinks_BHS: Tensor, beta: float, mask: Mask) -> tuple[Tensor, Tensor]:
        """The calibrated mixed values z_BTHD, and what S held of each row before, [B, T, H]."""
        most = int(sinks_BHS.sum(dim=-1).max())
        is_sink_BHS, column_BHS = sinks_BHS.to(torch.int8).sort(dim=-1, descending=True, stable=True)
        is_sink_BHK, column_BHK = is_sink_BHS[..., :most].bool(), column_BHS[..., :most]
        keys_BHKD, values_BHKD = (
            x.gather(2, column_BHK[..., None].expand(-1, -1, -1, x.shape[3])) for x in (self.k_BHSD, self.v_BHSD)
        )
        mixed_BHTD = self._without(sinks_BHS, mask)
        held = []
        for first in range(0, mask.tokens, ROWS):
            rows = slice(first, min(first + ROWS, mask.tokens))
            scores_BHRK = self.q_BHTD[:, :, rows] @ keys_BHKD.transpose(-1, -2)
            weights_BHRK = (scores_BHRK - self.largest_BHT1[:, :, rows]).exp() / self.total_BHT1[:, :, rows]
            seen_BHRK = _seen(column_BHK, mask, rows) & is_sink_BHK[:, :, None]
            weights_BHRK = torch.where(seen_BHRK, weights_BHRK, 0.0)
            held_BHR1 = weights_BHRK.sum(dim=-1, keepdim=True)
            mixed_BHTD[:, :, rows] *= 1 - beta * held_BHR1
            mixed_BHTD[:, :, rows] += beta * (weights_BHRK @ values_BHKD)
            held.append(held_BHR1[..., 0])
        return rearrange(mixed_BHTD, "b h t d -> b t h d"), rearrange(torch.cat(held, dim=2), "b h t -> b t h")

    def _without(self, sinks_BHS: Tensor, mask: Mask) -> Tensor:
        """Softmax attention over all columns but S, z'_BHTD: by one more channel the keys of S score far below."""
        size = self.q_BHTD.shape[-1]
        q_BHTE, k_BHSE, v_BHSE = (F.pad(x, (0, PADDING)) for x in (self.q_BHTD, self.k_BHSD, self.v_BHSD))
        q_BHTE[..., size] = 1.0
        k_BHSE[..., size] = NEVER * sinks_BHS
        mixed_BHTE = F.scaled_dot_product_attention(
            q_BHTE,
            k_BHSE,
            v_BHSE,
            attn_mask=None if mask.is_causal_only else mask.dense,
            is_causal=mask.is_causal_only,
            scale=1.0,
        )
        return mixed_BHTE[..., :size]


def _hide(scores_BHRS: Tensor, mask: Mask, first: int) -> None:
    """Scores of keys that a block of rows does not see become minus infinity, in place."""
    last = scores_BHRS.shape[-1]
    if mask.is_causal_only:  # only the last square of the block is not seen whole
        seen_RR = torch.ones(last - first, last - first, dtype=torch.bool, device=scores_BHRS.device).tril()
        scores_BHRS[..., first:].masked_fill_(~seen_RR, -torch.inf)
    else:
        scores_BHRS.masked_fill_(~mask.visible(first, last), -torch.inf)


def _seen(column_BHK: Tensor, mask: Mask, rows: slice) -> Tensor:
    """Whether each query of a block of rows sees each of these columns, [B, H, R, K]."""
    if mask.is_causal_only:
        return column_BHK[:, :, None] <= torch.arange(rows.start, rows.stop, device=column_BHK.device)[:, None]
    visible = mask.visible(rows.start, rows.stop)
    visible = F.pad(visible, (0, mask.tokens - rows.stop)).expand(*column_BHK.shape[:2], -1, -1)
    return visible.gather(3, column_BHK[:, :, None].expand(-1, -1, visible.shape[2], -1))
