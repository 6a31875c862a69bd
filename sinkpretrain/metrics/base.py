"""The base of metrics: what a metric is shown of one layer, what it adds up, and how that becomes a record.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, L layers. X is any
further axis of one position's values: none, heads or channels. The arrays of records further use G key-value heads,
C model width, F feed-forward neurons, K entries of a list, E edges of K bins.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Sums = dict[str, Tensor]
Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The text a metric runs on. Metrics of equal needs share one pass over the model."""

    text: Literal["held_out", "random"] = "held_out"  # random: uniform token ids, no BOS, one document
    tokens: int | None = None  # length of a sequence, cut to the context length; None: the context length
    sequences: int | None = None  # None: as many as the probe is set to
    tokens_per_channel: int = 0  # at least so many tokens in all for each channel of d_model


@dataclass(frozen=True, kw_only=True)
class AttentionSummary:
    """One layer's attention weights without the T x T tensor, raw and with each row divided by its sum.

    A row without mass (every weight zero) cannot be divided by its sum: its row-normalised weights are zero here, and
    means over row-normalised weights leave it out, by `mass_BHT` or `queries_normalised_BHS`. NaN weights stay NaN.
    """

    first_BHT: Tensor  # weight of query t on the first token of its own document
    first_normalised_BHT: Tensor
    mass_BHT: Tensor  # sum of the row; 1 for softmax
    entropy_BHT: Tensor  # of the row-normalised weights, nats; 0 for a row without mass
    received_BHS: Tensor  # sum over queries i of A[i, k]
    received_normalised_BHS: Tensor
    queries_BHS: Tensor  # number of queries that see key k: N - k
    queries_normalised_BHS: Tensor  # those of them whose row has mass

    @classmethod
    def of(cls, rows: Iterable[tuple[int, Tensor]], position_BT: Tensor, length_BT: Tensor) -> "AttentionSummary":
        """The summary of blocks of weights (first row, weights_BHRS), in one pass with memory linear in T."""
        start_BT = torch.arange(position_BT.shape[1], device=position_BT.device) - position_BT
        blocks = []
        received_BHS = received_normalised_BHS = torch.zeros((), device=position_BT.device)
        for row, weights_BHRS in rows:
            weights_BHRS = at_least_float32(weights_BHRS)
            mass_BHR1 = weights_BHRS.sum(dim=-1, keepdim=True)
            normalised_BHRS = weights_BHRS / mass_BHR1.masked_fill(mass_BHR1 == 0, 1.0)
            start_BR = start_BT[:, row : row + weights_BHRS.shape[2]]
            column_BHR1 = start_BR[:, None, :, None].expand_as(mass_BHR1)
            entropy_BHR = torch.special.entr(normalised_BHRS).sum(dim=-1)
            firsts = [of.gather(-1, column_BHR1)[..., 0] for of in (weights_BHRS, normalised_BHRS)]
            blocks.append((*firsts, mass_BHR1[..., 0], entropy_BHR))
            received_BHS = received_BHS + weights_BHRS.sum(dim=2)
            received_normalised_BHS = received_normalised_BHS + normalised_BHRS.sum(dim=2)
        first_BHT, first_normalised_BHT, mass_BHT, entropy_BHT = (
            torch.cat(parts, dim=2) for parts in zip(*blocks, strict=True)
        )
        return cls(
            first_BHT=first_BHT,
            first_normalised_BHT=first_normalised_BHT,
            mass_BHT=mass_BHT,
            entropy_BHT=entropy_BHT,
            received_BHS=received_BHS,
            received_normalised_BHS=received_normalised_BHS,
            queries_BHS=(length_BT - position_BT)[:, None].expand_as(mass_BHT),
            queries_normalised_BHS=_from_here_on(mass_BHT != 0, start_BT + length_BT),
        )

    @property
    def score_BHS(self) -> Tensor:
        """ACT's attention score a[k]: mean over the queries i >= k of A[i, k]."""
        return self.received_BHS / self.queries_BHS

    @property
    def score_normalised_BHS(self) -> Tensor:
        """The same of row-normalised weights; 0 where no query that sees k has mass (`queries_normalised_BHS` is 0)."""
        return self.received_normalised_BHS / self.queries_normalised_BHS.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """One layer on one batch, as a metric sees it."""

    layer: int
    tokens_BT: Tensor
    vocab_size: int
    taps: dict[str, Tensor]  # the metric's own among them
    matrices: Mapping[str, Tensor]  # `Block.matrices`
    attention: AttentionSummary | None  # None where no metric of the pass reads attention
    rows: Callable[[], Iterator[tuple[int, Tensor]]]  # blocks of weights (first row, weights_BHRS), where attention is
    position_BT: Tensor  # within the position's own document
    length_BT: Tensor  # N: tokens of that document inside the window
    has_documents: bool  # whether the documents of a window are masked from each other

    @property
    def first_BT(self) -> Tensor:
        """Whether a position is the first of its document."""
        return self.position_BT == 0


class Metric(ABC):
    """A quantity by layer (and head, position, ...) of a model on text: add up over batches and ranks, divide last.

    A subclass states units, convention and source in its docstring. A mean in which nothing was counted is NaN.
    """

    inputs: ClassVar[Inputs] = Inputs()
    taps: ClassVar[tuple[str, ...]] = ()
    reads_attention: ClassVar[bool] = False
    arrays: ClassVar[dict[str, str]]  # axes of each array of the record: letters of this file's legend, "" a scalar

    @abstractmethod
    def measure(self, view: LayerView) -> Sums:
        """Sums and counts of one layer and batch, in float64, that may be added over batches and ranks."""

    def weigh(self, matrices: Mapping[str, Tensor]) -> Sums:
        """What the metric takes from the weights of one layer: once, not added up over batches or ranks."""
        return {}

    @abstractmethod
    def finish(self, sums: Arrays) -> Arrays:
        """The arrays of the record, from the sums over everything and what `weigh` gave, stacked over layers (L)."""

    def scalars(self, arrays: Arrays) -> dict[str, float]:
        """What goes to metrics.jsonl, from the arrays of the record."""
        return {}


class FirstAgainstOthers(Metric):
    """The mean of a quantity of each token, at position 0 of each document (`first`) and at all others (`others`)."""

    @abstractmethod
    def quantity(self, view: LayerView) -> Tensor:
        """value_BTX: the quantity of every token."""

    def measure(self, view: LayerView) -> Sums:
        """Sums and counts over the first positions and over the others, kept apart."""
        value_BTX = self.quantity(view)
        first_BT = view.first_BT
        return {
            "first": double(value_BTX[first_BT]).sum(dim=0),
            "first_count": double(first_BT.sum()),
            "others": double(value_BTX[~first_BT]).sum(dim=0),
            "others_count": double((~first_BT).sum()),
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Means over tokens."""
        return {name: mean(sums[name], sums[f"{name}_count"]) for name in ("first", "others")}


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def double(x: Tensor) -> Tensor:
    """`x` in float64; on the CPU where the device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def above(x: Tensor, threshold: Tensor | float) -> Tensor:
    """1 where x > threshold, else 0; NaN stays NaN, so that a diverged model never reads 'no sink'."""
    return torch.where(x.isnan(), x, (x > threshold).to(x.dtype))


def sum_by_position(view: LayerView, value_BHT: Tensor) -> Tensor:
    """Sum over sequences by position within the document, float64 [H, T]."""
    value_BHT = double(value_BHT)
    if not view.has_documents:
        return value_BHT.sum(dim=0)
    batch, heads, tokens = value_BHT.shape
    value_HN = value_BHT.transpose(0, 1).reshape(heads, batch * tokens)
    position_HN = view.position_BT.to(value_HN.device).reshape(1, -1).expand(heads, -1)
    return value_HN.new_zeros(heads, tokens).scatter_add(1, position_HN, value_HN)


def mean(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Total over count, along the leading axes of the count; NaN where the count is zero."""
    count = count.reshape(count.shape + (1,) * (total.ndim - count.ndim))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def by_layer(prefix: str, value_L: NDArray[np.float64]) -> dict[str, float]:
    """`<prefix>/layer_00`, `<prefix>/layer_01`, ..."""
    return {f"{prefix}/layer_{layer:02d}": float(value) for layer, value in enumerate(value_L)}


def _from_here_on(is_counted_BHT: Tensor, end_BT: Tensor) -> Tensor:
    """How many positions from t to the end (exclusive) of t's document are counted."""
    to_window_end_BHT = F.pad(is_counted_BHT.long().flip(-1).cumsum(dim=-1).flip(-1), (0, 1))
    after_document_BHT = to_window_end_BHT.gather(-1, end_BT[:, None].expand_as(is_counted_BHT))
    return to_window_end_BHT[..., :-1] - after_document_BHT
