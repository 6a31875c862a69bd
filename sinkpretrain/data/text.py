"""Text that the user names, as token windows without a token store on disk."""

import glob
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sinkpretrain.data.prepare import encode
from sinkpretrain.data.reader import Reader
from sinkpretrain.data.recipe import read_recipe
from sinkpretrain.data.sources import FilesSource
from sinkpretrain.errors import DataError

MOST_TOKENS = 1_000_000  # more text is left out: probes and interventions read fewer
DOCUMENTS = 64  # encoded at a time


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """Tokens in memory that `Windows` reads as it reads a token store; both splits are the same."""

    root: Path  # what was read
    separator: int
    stream: NDArray[np.uint32]

    def tokens(self, split: str) -> NDArray[np.uint32]:
        """`S d1 S d2 S ... dn S`, S the separator."""
        return self.stream

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens."""
        return hashlib.sha256(self.stream.tobytes()).hexdigest()


def read_text(path: Path | str, tokenizer: Tokenizer, separator: int) -> TextTokens:
    """The documents of a file or of a recipe, in the order of their hashes, up to `MOST_TOKENS` tokens.

    Args:
        path: a .txt (one document), .jsonl or .parquet (a document a line or row, under `text`), or a recipe of
            `sinkpretrain prepare`, of which only the sources count.
        tokenizer: adds no special tokens.
        separator: the id of the token between documents.

    Raises:
        DataError: no such file, of another kind, or without text.
        ConfigError: a recipe that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such text; give a .txt, .jsonl or .parquet file, or a recipe (.yaml)")
    sources = (
        read_recipe(path).built_sources()
        if path.suffix in (".yaml", ".yml")
        else [FilesSource(path=glob.escape(path.name))]
    )
    texts = sorted(set(Reader(sources, path.parent)), key=lambda text: hashlib.sha256(text.encode()).digest())
    if not texts:
        raise DataError(f"{path}: holds no text")
    between = np.array([separator], dtype=np.uint32)
    pieces, length = [between], 1
    for document in _encoded(tokenizer, texts):
        pieces += [document, between]
        length += len(document) + 1
        if length > MOST_TOKENS:
            break
    return TextTokens(root=path, separator=separator, stream=np.concatenate(pieces)[:MOST_TOKENS])


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> Iterator[NDArray[np.uint32]]:
    for first in range(0, len(texts), DOCUMENTS):
        yield from encode(tokenizer, texts[first : first + DOCUMENTS])
