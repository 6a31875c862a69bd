"""`prepare`: a recipe becomes a token store; interrupted, it goes on where it stopped, to the same bytes."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sinkpretrain.data.finish import write_manifest
from sinkpretrain.data.manifest import FORMAT, MANIFEST, PROGRESS, SPLITS, TOKENIZER, sealed, unsealed
from sinkpretrain.data.progress import Documents
from sinkpretrain.data.reader import Reader
from sinkpretrain.data.recipe import Recipe, read_recipe
from sinkpretrain.data.shards import SplitWriter
from sinkpretrain.data.store import TokenStore
from sinkpretrain.data.tokenizer import load_tokenizer, pieces, separator_id, vocabulary_size
from sinkpretrain.errors import DataError
from sinkpretrain.files import hold, write_atomically
from sinkpretrain.mappings import difference

BATCH = 1 << 20  # characters encoded at a time; about 60 bytes of memory each
COMMIT_BYTES = 32_000_000  # of text between two points from which an interrupted preparation goes on
UINT16_VOCABULARY = 1 << 16

K = TypeVar("K")


def prepare(recipe_path: Path | str, out: Path | str | None = None, *, commit_bytes: int = COMMIT_BYTES) -> TokenStore:
    """The finished token store of a recipe, made where there is none yet; by default in a folder named as the recipe.

    A finished store of the same recipe and text is returned at once, an unfinished one is continued. `commit_bytes` of
    text are lost by an interruption at most; it has no effect on what is written.

    Raises:
        ConfigError: the recipe has an unknown key or a value out of range.
        DataError: text that is missing, unreadable, altered or too little; or the folder holds something else.
    """
    recipe_path = Path(recipe_path)
    recipe = read_recipe(recipe_path)
    root = Path(out) if out is not None else recipe_path.with_suffix("")
    preparation = _Preparation(recipe, recipe_path.parent, root, commit_bytes)
    if (root / MANIFEST).exists():
        return preparation.finished()
    with _alone(root):
        if not (root / MANIFEST).exists():  # another process may have finished while this one waited
            preparation.run()
    return preparation.finished()


class _Preparation:
    """One recipe, one folder."""

    def __init__(self, recipe: Recipe, folder: Path, root: Path, commit_bytes: int) -> None:
        self.recipe, self.folder, self.root, self.commit_bytes = recipe, folder, root, commit_bytes
        self.sources = recipe.built_sources()
        self.provenance = [source.provenance(folder) for source in self.sources]
        self.tokenizer_sha256 = recipe.built_tokenizer().file_sha256(folder)
        self.identity = self._identity(FORMAT)
        self.empty = 0

    def _identity(self, version: int) -> str:
        """SHA-256 of all that decides what a store of a format holds."""
        recipe, tokenizer = asdict(self.recipe), self.tokenizer_sha256
        identity = {"format": version, "recipe": recipe, "sources": self.provenance, "tokenizer": tokenizer}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def finished(self) -> TokenStore:
        """The store in the folder, refused where another recipe or other text made it."""
        store = TokenStore.open(self.root)
        if store.manifest["identity"] != self._identity(store.manifest["format"]):
            self._refuse_other("a store")
        return store

    def run(self) -> None:
        """Read, encode and write everything that is not written yet, then the manifest."""
        progress = self._progress()
        tokenizer = self._tokenizer()
        size = vocabulary_size(tokenizer)
        dtype = np.dtype("<u2" if size <= UINT16_VOCABULARY else "<u4")
        separator = separator_id(tokenizer, self.recipe.built_tokenizer().separator)
        shard_tokens = self.recipe.shard_tokens
        writers = {
            split: SplitWriter(self.root, split, dtype, separator, shard_tokens, progress.get(split))
            for split in SPLITS
        }
        reader = Reader(self.sources, self.folder, progress.get("reader"))
        self.empty = progress.get("empty", 0)
        totals = [source.documents or source.limit for source in self.sources]
        total = sum(filter(None, totals)) if all(totals) else None
        with Documents("tokens", total, sum(reader.read)) as display:
            self._encode(reader, tokenizer, writers, display)
        self._refuse_changed()
        write_manifest(
            self.root,
            writers,
            dtype=dtype,
            separator=separator,
            about={
                "identity": self.identity,
                "recipe": asdict(self.recipe),
                "sources": [
                    {**about, "kind": entry["name"], "documents": read}
                    for about, entry, read in zip(self.provenance, self.recipe.sources, reader.read, strict=True)
                ],
                "empty_documents_skipped": self.empty,
            },
        )
        (self.root / PROGRESS).unlink()

    def _encode(
        self, reader: Reader, tokenizer: Tokenizer, writers: dict[str, SplitWriter], display: Documents
    ) -> None:
        """Encode batch by batch, and note every `commit_bytes` how far everything is on disk."""
        uncommitted = 0
        for batch in _batches(self._contents(reader)):
            for (content, text), tokens in zip(batch, encode(tokenizer, [text for _, text in batch]), strict=True):
                if not text.strip() or not len(tokens):
                    self.empty += 1
                else:
                    writers[split_of(content, self.recipe.validation_fraction)].append(tokens, len(content))
            read_bytes = sum(len(content) for content, _ in batch)
            display.read(len(batch), read_bytes)
            uncommitted += read_bytes
            if uncommitted >= self.commit_bytes:
                self._commit(reader, writers)
                uncommitted = 0
        for writer in writers.values():
            writer.close()

    def _contents(self, reader: Reader) -> Iterator[tuple[bytes, str]]:
        """The UTF-8 of each text, and the text."""
        for text in reader:
            try:
                yield text.encode(), text
            except UnicodeEncodeError as error:
                raise DataError(f"{reader.where()}: cannot be written as UTF-8 ({error}); mend or remove it") from error

    def _commit(self, reader: Reader, writers: dict[str, SplitWriter]) -> None:
        for writer in writers.values():
            writer.flush()
        states = {split: writer.state() for split, writer in writers.items()}
        progress = {"identity": self.identity, "reader": reader.state(), "empty": self.empty, **states}
        write_atomically(self.root / PROGRESS, sealed(progress))

    def _tokenizer(self) -> Tokenizer:
        """The store's tokenizer; made and saved first where an earlier attempt has not."""
        path = self.root / TOKENIZER
        if not path.exists():
            write_atomically(path, self.recipe.built_tokenizer().tokenizer_json(self.folder, self._training_texts))
        return load_tokenizer(path)

    def _training_texts(self) -> Iterator[str]:
        """The training documents from the start, for a tokenizer to be trained on; held-out text stays unseen."""
        with Documents("text for the tokenizer", None) as display:
            for content, text in self._contents(Reader(self.sources, self.folder)):
                if text.strip() and split_of(content, self.recipe.validation_fraction) == "train":
                    yield text
                    display.read(1, len(content))

    def _progress(self) -> dict[str, Any]:
        """How far an earlier attempt came; the folder is claimed for this recipe where there was none."""
        path = self.root / PROGRESS
        if path.exists():
            progress = unsealed(path, path.read_bytes())
            if progress.get("identity") != self.identity:
                self._refuse_other("an unfinished store")
            return progress
        strangers = sorted(found.name for found in self.root.iterdir() if not found.name.startswith("."))
        if strangers:
            raise DataError(
                f"{self.root}: is not empty and not a token store (it holds {strangers[0]}); give another --out"
            )
        write_atomically(path, sealed({"identity": self.identity}))
        return {}

    def _refuse_other(self, what: str) -> None:
        raise DataError(
            f"{self.root}: holds {what} of another recipe or of text that has changed since; give another --out, "
            "or delete the folder to prepare it anew"
        )

    def _refuse_changed(self) -> None:
        """Raise where a source is no longer what it was when reading began: parts of both may have been read."""
        for source, before in zip(self.sources, self.provenance, strict=True):
            after = source.provenance(self.folder)
            if after != before:
                changed = ", ".join(list(difference(before, after))[:3])
                raise DataError(
                    f"{self.root}: text changed while it was read ({changed}); delete this folder and prepare it again"
                )


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[NDArray[np.uint32]]:
    """The tokens of each text; long texts go through the tokenizer in `pieces`."""
    parts: list[list[NDArray[np.uint32]]] = [[] for _ in texts]
    numbered = ((number, piece) for number, text in enumerate(texts) for piece in pieces(text))
    for group in _batches(numbered):
        encodings = tokenizer.encode_batch_fast([piece for _, piece in group], add_special_tokens=False)
        for (number, _), encoding in zip(group, encodings, strict=True):
            parts[number].append(np.array(encoding.ids, dtype=np.uint32))
    return [np.concatenate(part) for part in parts]


def split_of(content: bytes, validation_fraction: float) -> str:
    """The split of a document, by the SHA-256 of its UTF-8: the same text is never in both."""
    place = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64
    return "validation" if place < validation_fraction else "train"


def _batches(pairs: Iterator[tuple[K, str]]) -> Iterator[list[tuple[K, str]]]:
    """Lists of pairs with about `BATCH` characters of text in them.

    A list is given out before the next pair is asked for, so a reader's state then stands right after it.
    """
    batch: list[tuple[K, str]] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += len(pair[1])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder alone; the lock goes with the process, however it ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = hold(root / ".lock")
    except OSError as error:
        raise DataError(f"{root}: cannot be written to as a folder ({error.strerror}); give another --out") from None
    if lock is None:
        raise DataError(f"{root}: is being prepared by another process; wait for it")
    with lock:
        yield
