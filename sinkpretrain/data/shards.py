"""Writing one split of a token store: shards and their document indexes, appended to and cut back to a known state."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.data.manifest import INDEX_DTYPE, shard_names
from sinkpretrain.errors import DataError


class SplitWriter:
    """Appends documents to `S d1 S d2 S ... dn S`; a document is whole in a shard, with the separator after it.

    `state()` after `flush()` says what is safely on disk; a writer made with it drops all that was written later.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        dtype: np.dtype[Any],
        separator: int,
        shard_tokens: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._root, self._split, self._dtype, self._shard_tokens = root, split, dtype, shard_tokens
        self._separator = np.array([separator], dtype=dtype).tobytes()
        self.shards: list[dict[str, int]] = [dict(shard) for shard in state["shards"]] if state else []
        self.bytes: int = state["bytes"] if state else 0  # of text, separators not counted
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._drop_later()

    @property
    def documents(self) -> int:
        """Documents in the split."""
        return sum(shard["documents"] for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens in the split, separators included."""
        return sum(shard["tokens"] for shard in self.shards)

    def append(self, tokens: NDArray[Any], text_bytes: int) -> None:
        """Add one document."""
        if not self.shards or self.shards[-1]["tokens"] >= self._shard_tokens:
            self._next_shard()
        shard, start = self.shards[-1], self.tokens
        data, index = self._files or self._open()
        data.write(tokens.astype(self._dtype, copy=False).tobytes() + self._separator)
        index.write(np.array([start], dtype=INDEX_DTYPE).tobytes())
        shard["tokens"] += len(tokens) + 1
        shard["documents"] += 1
        self.bytes += text_bytes

    def flush(self) -> None:
        """Put everything appended so far on disk."""
        for file in self._files or ():
            file.flush()
            os.fsync(file.fileno())

    def state(self) -> dict[str, Any]:
        """What has been appended, as plain JSON."""
        return {"shards": [dict(shard) for shard in self.shards], "bytes": self.bytes}

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        for file in self._files or ():
            file.close()
        self._files = None

    def _next_shard(self) -> None:
        self.close()
        self.shards.append({"tokens": 0, "documents": 0})
        if len(self.shards) == 1:  # the separator before the first document
            self._open()[0].write(self._separator)
            self.shards[0]["tokens"] = 1

    def _open(self) -> tuple[BinaryIO, BinaryIO]:
        data, index = (self._root / name for name in shard_names(self._split, len(self.shards) - 1))
        self._files = data.open("ab"), index.open("ab")
        return self._files

    def _drop_later(self) -> None:
        """Cut the files back to the state, so that what is appended next continues it."""
        for path in self._root.glob(f"{self._split}_*"):
            number = int(path.stem.removeprefix(f"{self._split}_"))
            if number >= len(self.shards):
                path.unlink()
                continue
            shard = self.shards[number]
            size = shard["tokens"] * self._dtype.itemsize
            size = size if path.suffix == ".bin" else shard["documents"] * INDEX_DTYPE.itemsize
            if (found := path.stat().st_size) < size:
                raise DataError(
                    f"{path}: has {found:,} bytes, {size:,} were written before the interruption; delete "
                    f"{self._root} and prepare it again"
                )
            os.truncate(path, size)
