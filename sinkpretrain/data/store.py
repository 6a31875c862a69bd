"""The token store: a folder of token shards that is complete and checkable, or refused.

```
<store>/manifest.json        written last: what the text was, every count, the SHA-256 of every file, its own too
        tokenizer.json       the tokenizer itself, for decoding and evaluation
        token_bytes.npy      uint16 by token id: bytes of text the token stands for, 0 for special tokens
        train_00000.bin      tokens, uint16 or uint32, raw little-endian; documents are whole in a shard
        train_00000.idx      int64 by document: where it starts in the split's stream
        validation_00000.bin ...
```
The stream of a split is `S d1 S d2 S ... dn S`, S the separator: one before the first document, one after each.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.data.manifest import (
    DTYPES,
    INDEX_DTYPE,
    MEND,
    SPLITS,
    TOKEN_BYTES,
    TOKENIZER,
    read_manifest,
    shard_names,
)
from sinkpretrain.data.tokenizer import load_tokenizer, token_text, vocabulary_size
from sinkpretrain.errors import DataError
from sinkpretrain.files import file_sha256

BLOCK = 1 << 20  # entries read at a time where a whole file is walked


def blocks(path: Path, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The entries of a file, `BLOCK` at a time; unlike a memory map, what was read does not stay in memory."""
    with path.open("rb") as file:
        while len(block := np.fromfile(file, dtype=dtype, count=BLOCK)):
            yield block


class TokenStream:
    """The tokens of one split as one sequence over its memory-mapped shards.

    `stream[a:b]` is a new array in the stored dtype; negative and open ends work as in a list, steps do not.
    """

    def __init__(self, paths: list[Path], lengths: list[int], dtype: np.dtype[Any]) -> None:
        self._paths, self._dtype = paths, dtype
        self._ends: list[int] = np.cumsum(lengths).tolist()
        self._shards: dict[int, NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as a copy of its file; a spawned worker opens its own.
        return {**self.__dict__, "_shards": {}}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: slice) -> NDArray[Any]:
        start, stop, step = key.indices(len(self))
        if step != 1:
            raise ValueError(f"step {step}: a token stream is sliced with step 1 only")
        pieces = []
        while start < stop:
            number = bisect_right(self._ends, start)
            first = self._ends[number - 1] if number else 0
            end = min(stop, self._ends[number])
            pieces.append(self._shard(number)[start - first : end - first])
            start = end
        return np.concatenate(pieces) if pieces else np.empty(0, self._dtype)

    def _shard(self, number: int) -> NDArray[Any]:
        if number not in self._shards:
            self._shards[number] = np.memmap(self._paths[number], dtype=self._dtype, mode="r")
        return self._shards[number]


class TokenStore:
    """A finished token store; make one with `sinkpretrain prepare`, open it with `TokenStore.open`."""

    def __init__(self, root: Path, manifest: dict[str, Any], fingerprint: str) -> None:
        self.root = root
        self.manifest = manifest
        self.fingerprint = fingerprint  # SHA-256 of manifest.json, and through it of every file
        self._streams: dict[str, TokenStream] = {}
        self._tokenizer: Any = None

    def __repr__(self) -> str:
        return f"TokenStore({str(self.root)!r})"

    @classmethod
    def open(cls, path: Path | str) -> "TokenStore":
        """A finished store; its manifest and the sizes of its files are checked, `verify` checks every byte.

        Raises:
            DataError: no store, an unfinished one, another format, a manifest that was altered or contradicts itself,
                or a file that is missing or cut short.
        """
        root = Path(path)
        store = cls(root, *read_manifest(root))
        store._check_sizes()
        return store

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return int(self.manifest["vocab_size"])

    @property
    def separator(self) -> int:
        """Id of the token between documents."""
        return int(self.manifest["separator_id"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the shards."""
        return DTYPES[self.manifest["dtype"]]

    @cached_property
    def token_bytes(self) -> NDArray[np.uint16]:
        """Bytes of text by token id, shape (vocab_size,); 0 for special tokens."""
        array: NDArray[np.uint16] = np.load(self.root / TOKEN_BYTES)
        return array

    def tokenizer(self) -> Any:
        """The tokenizer that made the store, a `tokenizers.Tokenizer`."""
        return load_tokenizer(self.root / TOKENIZER)

    def token_text(self, token: int) -> str:
        """What one token reads."""
        if self._tokenizer is None:
            self._tokenizer = self.tokenizer()
        return token_text(self._tokenizer, token)

    def tokens(self, split: str) -> TokenStream:
        """The stream of `train` or `validation`, separators included."""
        if split not in self._streams:
            shards = self._split(split)["shards"]
            paths = [self.root / shard_names(split, number)[0] for number in range(len(shards))]
            self._streams[split] = TokenStream(paths, [shard["tokens"] for shard in shards], self.dtype)
        return self._streams[split]

    def document_starts(self, split: str) -> NDArray[np.int64]:
        """Where each document's first token stands in the split's stream, rising; a separator stands before it."""
        count = len(self._split(split)["shards"])
        indexes = [np.fromfile(self.root / shard_names(split, number)[1], dtype=INDEX_DTYPE) for number in range(count)]
        return np.concatenate(indexes).astype(np.int64, copy=False)

    def verify(self) -> None:
        """Read every file and compare it with the manifest; memory does not grow with the store.

        Raises:
            DataError: a file whose SHA-256 differs, a token that is not in the vocabulary, documents that do not lie
                one after another in their shard, or a tokenizer of another vocabulary; with the file's name.
        """
        for name, expected in self.manifest["files"].items():
            path = self.root / name
            found = _sha256(path)
            if found != expected["sha256"]:
                says = f"SHA-256 {found[:12]}..., the manifest has {expected['sha256'][:12]}..."
                raise DataError(f"{path}: was altered ({says}); {MEND}")
        self._check_tokenizer()
        for split in SPLITS:
            first = 0
            for number, shard in enumerate(self._split(split)["shards"]):
                tokens, index = (self.root / name for name in shard_names(split, number))
                self._check_tokens(tokens)
                _check_index(index, first, first + shard["tokens"])
                first += shard["tokens"]

    def _split(self, split: str) -> dict[str, Any]:
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: is not one of {', '.join(SPLITS)}")
        content: dict[str, Any] = self.manifest["splits"][split]
        return content

    def _check_sizes(self) -> None:
        for name, expected in self.manifest["files"].items():
            path = self.root / name
            if not path.is_file():
                raise DataError(f"{path}: is missing, the manifest lists it; copy it anew or prepare the store again")
            if (size := path.stat().st_size) != expected["bytes"]:
                raise DataError(f"{path}: has {size:,} bytes, the manifest says {expected['bytes']:,}; {MEND}")

    def _check_tokenizer(self) -> None:
        """Raise where the tokenizer, the bytes by token and the manifest are not of one vocabulary."""
        size = vocabulary_size(self.tokenizer())
        if size != self.vocab_size:
            says = f"has {size} token ids, the manifest says {self.vocab_size}"
            raise DataError(f"{self.root / TOKENIZER}: {says}; {MEND}")
        path = self.root / TOKEN_BYTES
        try:
            lengths = self.token_bytes
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); {MEND}") from None
        if lengths.dtype != np.dtype("uint16") or lengths.shape != (size,):
            found = f"{lengths.dtype} of shape {lengths.shape}"
            raise DataError(f"{path}: holds {found}, not a uint16 for each of {size} token ids; {MEND}")

    def _check_tokens(self, path: Path) -> None:
        for block in blocks(path, self.dtype):
            highest = int(block.max())
            if highest >= self.vocab_size:
                raise DataError(
                    f"{path}: holds token {highest}, the vocabulary ends at {self.vocab_size - 1}; "
                    "delete the store and prepare it again"
                )


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {MEND}") from None


def _check_index(path: Path, first: int, end: int) -> None:
    """Raise where the documents of a shard, `first` to `end` of its stream, do not lie in it one after another.

    Each has a token at least and a separator after it; before the very first stands a separator too.
    """
    least = max(first, 1)
    begins = True
    for starts in blocks(path, INDEX_DTYPE):
        rises = bool((np.diff(starts) >= 2).all()) and int(starts[-1]) <= end - 2
        if not rises or int(starts[0]) < least or (begins and int(starts[0]) != least):
            raise DataError(f"{path}: its documents do not follow one another in tokens {first:,} to {end:,}; {MEND}")
        least, begins = int(starts[-1]) + 2, False
