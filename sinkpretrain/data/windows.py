"""Windows of tokens and their order.

The order is a pure function of (seed, step): it knows nothing of workers, ranks, variants or earlier runs.
Shapes: B windows, T positions.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkpretrain.config import Config
from sinkpretrain.errors import DataError

IGNORED = -100  # the target that torch's cross-entropy leaves out


class Batch(NamedTuple):
    """Input tokens, next tokens, and which document of its window each position is in; int64.

    `document_BT` rises from 0 along a window and is None where documents are not masked from each other.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    document_BT: Tensor | None


class Tokens(Protocol):
    """What windows are cut from: a token store, or text in memory."""

    @property
    def root(self) -> Path:
        """Where it is, for messages."""

    @property
    def separator(self) -> int:
        """Id of the token between documents."""

    def tokens(self, split: str) -> Any:
        """The stream of a split: has a length, and slices that are arrays of token ids."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A split cut into windows of `context_length` inputs, T.

    With S the separator and `d1 S d2 S ... dn S` the stream, window i is

    - `bos: none`: stream[iT : iT+T]; a separator is the end of the document before it.
    - `bos: document`: the same slices of `S d1 S d2 ... dn S`; a separator is the BOS of the document after it.
    - `bos: window`: S, then stream[iT : iT+T-1]; every window starts with S.

    Targets are the tokens that follow. With `document_mask` and `bos: none`, the target after a separator is
    `IGNORED`, since nothing of the next document can be seen from there.

    Raises:
        DataError: the split is too short for a single window.
    """

    store: Tokens
    split: str
    context_length: int
    bos: Literal["none", "document", "window"] = "none"
    document_mask: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a split without a whole window."""
        if len(self) < 1:
            have = len(self.store.tokens(self.split))
            raise DataError(
                f"{self.store.root}: its {self.split} split has {have:,} tokens, too few for one window of "
                f"model.context_length {self.context_length:,}; shorten the context or prepare more text"
            )

    @classmethod
    def of(cls, store: Tokens, split: str, config: Config) -> "Windows":
        """The windows that a run's configuration asks for."""
        data = config.data
        return cls(
            store=store,
            split=split,
            context_length=config.model.context_length,
            bos=data.bos,
            document_mask=data.document_mask,
            seed=data.seed,
        )

    def __len__(self) -> int:
        # The separator before the first document is an input with `document` only; with `window` the S that is put
        # in front takes its place, so both see one token more than `none`.
        usable = len(self.store.tokens(self.split)) - (1 if self.bos == "none" else 0)
        return max(0, usable - 1) // self.context_length

    def ids(self, step: int, global_batch_size: int) -> NDArray[np.int64]:
        """The windows of one optimizer step over all ranks, shape (global_batch_size,); an epoch is a permutation."""
        flat = np.arange(step * global_batch_size, (step + 1) * global_batch_size, dtype=np.int64)
        epochs, positions = np.divmod(flat, len(self))
        ids = np.empty_like(flat)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            ids[chosen] = _permutation(self.seed, int(epoch), len(self))[positions[chosen]]
        return ids

    def fixed(self, count: int) -> NDArray[np.int64]:
        """`count` windows spread evenly over the split, always the same: for validation and probes.

        Raises:
            DataError: the split has fewer.
        """
        if count > len(self):
            raise DataError(
                f"{self.store.root}: its {self.split} split has {len(self):,} windows of {self.context_length:,} "
                f"tokens, {count:,} were asked for; lower validation.windows or probes.windows, or prepare more text"
            )
        return np.arange(count, dtype=np.int64) * len(self) // count

    def batch(self, ids: NDArray[np.int64]) -> Batch:
        """The windows with these ids, in this order."""
        length = self.context_length
        stream = self.store.tokens(self.split)
        first = 1 if self.bos == "none" else 0
        spans_BS = np.empty((len(ids), length + 1), dtype=np.int64)
        for row, start in enumerate(first + np.asarray(ids) * length):
            spans_BS[row] = stream[start : start + length + 1]
        tokens_BT, targets_BT = spans_BS[:, :-1].copy(), spans_BS[:, 1:].copy()
        if self.bos == "window":
            tokens_BT[:, 0] = self.store.separator
        document_BT = self._documents(tokens_BT) if self.document_mask else None
        if self.document_mask and self.bos == "none":
            targets_BT[tokens_BT == self.store.separator] = IGNORED
        documents = None if document_BT is None else torch.from_numpy(document_BT)
        return Batch(torch.from_numpy(tokens_BT), torch.from_numpy(targets_BT), documents)

    def _documents(self, tokens_BT: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which document of the window each position is in."""
        separator_BT = (tokens_BT == self.store.separator).astype(np.int64)
        begun_BT: NDArray[np.int64] = np.cumsum(separator_BT, axis=1)
        own_BT = begun_BT[:, :1] if self.bos == "document" else separator_BT
        return np.subtract(begun_BT, own_BT)


@lru_cache(maxsize=2)  # a step can reach over the end of an epoch
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of one epoch. NumPy's NEP 19 freezes RandomState's streams, so no NumPy release changes it."""
    return np.random.RandomState([seed, epoch]).permutation(count).astype(np.int64, copy=False)
