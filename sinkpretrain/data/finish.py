"""The last step of a preparation: check and count what was written, and say so in the manifest."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.data.manifest import MANIFEST, TOKEN_BYTES, TOKENIZER, sealed, shard_names
from sinkpretrain.data.shards import SplitWriter
from sinkpretrain.data.store import blocks
from sinkpretrain.data.tokenizer import load_tokenizer, token_bytes, vocabulary_size
from sinkpretrain.errors import DataError
from sinkpretrain.files import file_sha256, write_atomically


def write_manifest(
    root: Path, writers: dict[str, SplitWriter], *, dtype: np.dtype[Any], separator: int, about: dict[str, Any]
) -> None:
    """Write `token_bytes.npy`, then the manifest, whole or not at all; with it the store is finished.

    Raises:
        DataError: a split without documents.
    """
    _refuse_empty(root, {split: writer.documents for split, writer in writers.items()})
    tokenizer = load_tokenizer(root / TOKENIZER)
    lengths = token_bytes(tokenizer)
    np.save(root / TOKEN_BYTES, lengths)
    counts = {split: _token_counts(root, split, writer, dtype, len(lengths)) for split, writer in writers.items()}
    names = [TOKENIZER, TOKEN_BYTES]
    for split, writer in writers.items():
        names += [name for number in range(len(writer.shards)) for name in shard_names(split, number)]
    files = {name: {"bytes": (root / name).stat().st_size, "sha256": file_sha256(root / name)} for name in names}
    text_bytes = sum(writer.bytes for writer in writers.values())
    manifest = {
        **about,
        "tokenizer_sha256": files[TOKENIZER]["sha256"],
        "vocab_size": vocabulary_size(tokenizer),
        "separator": tokenizer.id_to_token(separator),
        "separator_id": separator,
        "dtype": dtype.name,
        # Whether the bytes by token add up to the bytes of the text, which bits per byte relies on.
        "token_bytes_exact": sum(int(count @ lengths.astype(np.int64)) for count in counts.values()) == text_bytes,
        "splits": {split: _split_entry(writer, counts[split]) for split, writer in writers.items()},
        "files": files,
    }
    write_atomically(root / MANIFEST, sealed(manifest))


def _refuse_empty(root: Path, documents: dict[str, int]) -> None:
    total = sum(documents.values())
    if not total:
        raise DataError(f"{root}: the sources hold no text at all; check the recipe's sources, then delete this folder")
    for split, count in documents.items():
        if not count:
            raise DataError(
                f"{root}: none of the {total:,} documents fell to {split}; change the recipe's validation_fraction, or "
                "cut the text into more documents (split_on for .txt files); then delete this folder"
            )


def _token_counts(
    root: Path, split: str, writer: SplitWriter, dtype: np.dtype[Any], vocab_size: int
) -> NDArray[np.int64]:
    """How often each token id stands in a split; reads the shards back, so it sees what is on disk."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for number in range(len(writer.shards)):
        for block in blocks(root / shard_names(split, number)[0], dtype):
            counts += np.bincount(block, minlength=vocab_size)
    assert counts.sum() == writer.tokens, f"{split} holds {counts.sum()} tokens on disk, {writer.tokens} were written"
    return counts


def _split_entry(writer: SplitWriter, counts: NDArray[np.int64]) -> dict[str, Any]:
    """One split's part of the manifest: `unigram_entropy_nats` is over its tokens, separators included."""
    share = counts[counts > 0] / counts.sum()
    return {
        "documents": writer.documents,
        "tokens": writer.tokens,
        "bytes": writer.bytes,
        "bytes_per_token": writer.bytes / writer.tokens,
        "unigram_entropy_nats": float(-(share * np.log(share)).sum()),
        "shards": writer.shards,
    }
