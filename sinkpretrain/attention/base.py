"""The two bases of attention: weights over keys, and transforms of what they mix.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, G key-value heads,
D head size, C model width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ROWS = 256  # query rows whose weights exist at a time

RowEdit = Callable[
    [Tensor, Tensor], Tensor
]  # (weights_BHRS of a block of rows, what is visible to them) -> weights_BHRS


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """The sizes that attention kinds are built from."""

    n_heads: int
    kv_heads: int
    head_size: int
    d_model: int
    context_length: int  # tokens


@dataclass(frozen=True)
class Mask:
    """Which keys a query sees: those not after it, and with documents those of its own document.

    With `shared_prompt`, document 0 is a prompt that each later document continues: their queries see its keys too, and
    their positions count on from its last. Negative documents are padding: nothing but padding sees them.
    The query at position `isolated` (of each document) sees itself only; later queries still see its key.
    """

    tokens: int
    device: torch.device
    document_BT: Tensor | None = None
    isolated: int | None = None
    shared_prompt: bool = False
    before: int = 0  # tokens whose keys come from a cache: only those after them are queries

    @property
    def is_causal_only(self) -> bool:
        """Whether each token is a query and sees every key that is not after it."""
        return self.document_BT is None and self.isolated is None and self.before == 0

    def visible(self, first: int, last: int) -> Tensor:
        """True where queries `first .. last - 1` see keys `0 .. last - 1`: [R, S], or [B, 1, R, S] with documents."""
        index = torch.arange(last, device=self.device)
        visible = index[None, :] <= index[first:last, None]
        if self.document_BT is not None:
            query_BR, key_BS = self.document_BT[:, first:last], self.document_BT[:, :last]
            same_BRS = query_BR[:, :, None] == key_BS[:, None, :]
            visible = visible & (same_BRS | (key_BS == 0)[:, None, :] if self.shared_prompt else same_BRS)
        if self.isolated is not None:
            own = index[None, :] == index[first:last, None]
            visible = visible & (own | (self.position[..., first:last] != self.isolated)[..., None])
        return visible if self.document_BT is None else visible[:, None]

    @cached_property
    def position(self) -> Tensor:
        """The position of each token: [T], or with documents [B, T], counted from the document's first token."""
        index_T = torch.arange(self.tokens, device=self.device)
        if self.document_BT is None:
            return index_T
        starts_BT = F.pad(self.document_BT[:, 1:] != self.document_BT[:, :-1], (1, 0), value=True)
        position_BT = index_T - torch.where(starts_BT, index_T, 0).cummax(dim=1).values
        if not self.shared_prompt:
            return position_BT
        prompt_B1 = (self.document_BT == 0).sum(dim=1, keepdim=True)
        return position_BT + torch.where(self.document_BT > 0, prompt_B1, 0)

    @cached_property
    def dense(self) -> Tensor:
        """`visible` for all queries; made once and shared by the layers."""
        return self.visible(self.before, self.tokens)


class Calibration(Protocol):
    """What stands in the seam of one layer: it decides what the weights of this layer become."""

    def mix(self, kind: "AttentionWeights", q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor:
        """The values mixed by the calibrated weights."""

    def rows(
        self, kind: "AttentionWeights", q_BTHD: Tensor, k_BSGD: Tensor, mask: Mask
    ) -> Iterator[tuple[int, Tensor]]:
        """Blocks of the calibrated weights."""


class AttentionWeights(nn.Module, ABC):
    """How scores s_ij = q_i . k_j / sqrt(D) become weights, and how weights mix values.

    `weights` is the definition: every metric is computed from it. `fused` may give the same mixed values faster.
    """

    rows_sum_to_one: ClassVar[bool]
    is_plain_softmax: ClassVar[bool] = False  # exp(s) / sum exp(s), which a calibration may compute by fused kernels
    random_parameters: ClassVar[dict[str, float]] = {}  # parameter name -> std of its normal initial values
    uses_fused: bool = True  # False: the explicit definition runs also where a fused path exists

    def __init__(self, shape: AttentionShape, options: Any = None) -> None:
        super().__init__()
        self.shape = shape
        self.options = options
        self.mask_edits: list[Callable[[Mask], Mask]] = []  # of interventions, for `mix` and `rows` alike
        self.calibration: Calibration | None = None  # likewise

    @abstractmethod
    def weights(self, scores_BHRS: Tensor, visible: Tensor, q_BRHD: Tensor) -> Tensor:
        """Weights of key j in column j, exactly zero where not visible; in the dtype of the scores."""

    def combine(self, weights_BHRS: Tensor, v_BSGD: Tensor) -> Tensor:
        """The mixed values z_BRHD = sum_j A_ij v_j."""
        weights_BGERS = rearrange(weights_BHRS, "b (g e) r s -> b g e r s", g=self.shape.kv_heads)
        mixed = torch.einsum("bgers,bsgd->brged", weights_BGERS, v_BSGD.to(weights_BHRS.dtype))
        return rearrange(mixed, "b r g e d -> b r (g e) d")

    def fused(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor | None:
        """The mixed values by a fast kernel that agrees with the definition, or None where there is none."""
        return None

    def mix(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor:
        """The mixed values z_BTHD: the seam that calibration and interventions on the mask wrap."""
        mask = self._edited(mask)
        if self.calibration is not None:
            return self.calibration.mix(self, q_BTHD, k_BSGD, v_BSGD, mask)
        return self.mix_plain(q_BTHD, k_BSGD, v_BSGD, mask)

    def mix_plain(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor:
        """The mixed values without calibration, by the fused path where there is one."""
        if self.uses_fused:
            mixed_BTHD = self.fused(q_BTHD, k_BSGD, v_BSGD, mask)
            if mixed_BTHD is not None:
                return mixed_BTHD
        return self.mix_explicit(q_BTHD, k_BSGD, v_BSGD, mask)

    def mix_explicit(
        self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask, edit: RowEdit | None = None
    ) -> Tensor:
        """The mixed values by the definition, a block of rows at a time: memory linear in T, in training too.

        `edit` makes other weights of a block of them.
        """
        mixed, before = [], mask.before
        for first, last in _blocks(q_BTHD.shape[1]):
            # The mask is made inside, so that a checkpoint does not keep the blocks of it.
            keys, values = k_BSGD[:, : before + last], v_BSGD[:, : before + last]
            arguments = (q_BTHD[:, first:last], keys, values, mask, before + first, edit)
            if torch.is_grad_enabled() and q_BTHD.shape[1] > ROWS:
                mixed.append(checkpoint(self.mix_rows, *arguments, use_reentrant=False))
            else:
                mixed.append(self.mix_rows(*arguments))
        return torch.cat(mixed, dim=1).to(q_BTHD.dtype)

    def rows(self, q_BTHD: Tensor, k_BSGD: Tensor, mask: Mask) -> Iterator[tuple[int, Tensor]]:
        """Blocks of the weights from the top: the first row of each, and its weights_BHRS over all keys."""
        mask = self._edited(mask)
        if self.calibration is not None:
            return self.calibration.rows(self, q_BTHD, k_BSGD, mask)
        return self.rows_plain(q_BTHD, k_BSGD, mask)

    def rows_plain(self, q_BTHD: Tensor, k_BSGD: Tensor, mask: Mask) -> Iterator[tuple[int, Tensor]]:
        """Blocks of the weights without calibration; row 0 is the first query's."""
        before, keys = mask.before, mask.tokens
        for first, last in _blocks(q_BTHD.shape[1]):
            visible = mask.visible(before + first, before + last)
            weights_BHRS = self._weights_of_rows(q_BTHD[:, first:last], k_BSGD[:, : before + last], visible)
            yield first, F.pad(weights_BHRS, (0, keys - before - last))

    def _edited(self, mask: Mask) -> Mask:
        for edit in self.mask_edits:
            mask = edit(mask)
        return mask

    def mix_rows(
        self, q_BRHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask, first: int, edit: RowEdit | None = None
    ) -> Tensor:
        """The mixed values of one block of rows: those of queries `first ...`, with the keys up to the last of them."""
        with torch.autocast(q_BRHD.device.type, enabled=False):
            visible = mask.visible(first, first + q_BRHD.shape[1])
            weights_BHRS = self._weights_of_rows(q_BRHD, k_BSGD, visible)
            return self.combine(weights_BHRS if edit is None else edit(weights_BHRS, visible), v_BSGD)

    def _weights_of_rows(self, q_BRHD: Tensor, k_BSGD: Tensor, visible: Tensor) -> Tensor:
        with torch.autocast(q_BRHD.device.type, enabled=False):
            dtype = torch.promote_types(q_BRHD.dtype, torch.float32)
            q_BRHD, k_BSGD = q_BRHD.to(dtype), k_BSGD.to(dtype)
            q_BRGED = rearrange(q_BRHD, "b r (g e) d -> b r g e d", g=self.shape.kv_heads)
            scores = torch.einsum("brged,bsgd->bgers", q_BRGED, k_BSGD) / math.sqrt(self.shape.head_size)
            return self.weights(rearrange(scores, "b g e r s -> b (g e) r s"), visible, q_BRHD)


class OutputTransform(nn.Module, ABC):
    """What happens to the mixed values of each head before W_O."""

    random_parameters: ClassVar[dict[str, float]] = {}

    def __init__(self, shape: AttentionShape, options: Any = None) -> None:
        super().__init__()
        self.shape = shape
        self.options = options

    @abstractmethod
    def forward(self, mixed_BTHD: Tensor, x_BTC: Tensor) -> Tensor:
        """o_BTHD from the mixed values and the block's normed input."""


def softmax_beside(scores_BHRS: Tensor, visible: Tensor, logit: Tensor | float) -> Tensor:
    """exp(s) / (exp(logit) + sum exp(s)): a softmax in which one more logit takes part and is dropped.

    Written as softmax(s) * sigmoid(log-sum-exp(s) - logit), which neither overflows nor loses small masses.
    """
    scores_BHRS = scores_BHRS.masked_fill(~visible, -torch.inf)
    log_mass_BHR1 = scores_BHRS.logsumexp(dim=-1, keepdim=True)
    return (scores_BHRS - log_mass_BHR1).exp() * torch.sigmoid(log_mass_BHR1 - logit)


def fused_beside_key(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, key_HD: Tensor, value_HD: Tensor) -> Tensor:
    """Causal softmax attention in which every query also sees one more key a head, by SDPA.

    The key goes first, with an idle query in front, so that a plain causal mask lets every real query see it.
    """
    batch, _, heads, _ = q_BTHD.shape
    repeats = heads // k_BTGD.shape[2]
    k_BHTD, v_BHTD = (rearrange(x, "b t g d -> b g t d").repeat_interleave(repeats, dim=1) for x in (k_BTGD, v_BTGD))
    extra_key, extra_value = (x.to(k_BTGD.dtype)[None, :, None].expand(batch, -1, 1, -1) for x in (key_HD, value_HD))
    mixed_BHTD = F.scaled_dot_product_attention(
        F.pad(rearrange(q_BTHD, "b t h d -> b h t d"), (0, 0, 1, 0)),
        torch.cat([extra_key, k_BHTD], dim=2),
        torch.cat([extra_value, v_BHTD], dim=2),
        is_causal=True,
    )
    return rearrange(mixed_BHTD[:, :, 1:], "b h t d -> b t h d")


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) row of each block."""
    for first in range(0, tokens, ROWS):
        yield first, min(first + ROWS, tokens)
