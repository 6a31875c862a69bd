"""Where text comes from: the Hugging Face hub, local files; `wheels.py` has text inside Python packages.

A source is a list of parts (a file, a member of an archive, a hub split), read one after another. A part knows its
position and can be opened there again, so that an interrupted preparation goes on without reading from the start.
"""

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.files import file_sha256

WHOLE_TEXT = 1 << 30  # bytes of a text file that is read as one document
COMMIT_HASH = 40  # characters


class Part(ABC):
    """One readable thing of a source, named for messages."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def documents(self, position: Any) -> Iterator[str]:
        """The documents from a position on; None is the start."""

    @abstractmethod
    def position(self) -> Any:
        """Where the next document is, for `documents`; plain JSON."""


class ListPart(Part):
    """A part that is read whole; its position is a number of documents."""

    def __init__(self, name: str, read: Callable[[], Iterator[str]]) -> None:
        super().__init__(name)
        self._read, self._done = read, 0

    def documents(self, position: Any) -> Iterator[str]:
        """The documents after the first `position`."""
        self._done = position or 0
        for text in islice(self._read(), self._done, None):
            self._done += 1
            yield text

    def position(self) -> int:
        """How many documents were given out."""
        return self._done


def texts_of(name: str, content: bytes, split_on: str | None = None) -> Iterator[str]:
    """The documents in the bytes of a text file: one, or as many as `split_on` cuts it into.

    Raises:
        DataError: the bytes are not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")  # a byte order mark is not text
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not valid UTF-8 text ({error}); convert it, for example with iconv") from error
    yield from text.split(split_on) if split_on else [text]


class DatasetPart(Part):
    """A streaming dataset of the `datasets` library; its position is the dataset's own state."""

    def __init__(self, name: str, load: Callable[[], Any], text_field: str) -> None:
        super().__init__(name)
        self._load, self._text_field = load, text_field
        self._dataset: Any = None

    def documents(self, position: Any) -> Iterator[str]:
        """The text field of each row; a null is an empty document.

        Raises:
            DataError: the source cannot be reached or read, or a row has no text.
        """
        try:
            self._dataset = self._load()
            if position is not None:
                self._dataset.load_state_dict(position)
            rows = iter(self._dataset)
            while (row := next(rows, None)) is not None:
                yield self._text(row)
        except DataError:
            raise
        except UnicodeDecodeError as error:
            raise DataError(f"{self.name}: is not valid UTF-8 ({error}); convert it, for example with iconv") from error
        except Exception as error:  # datasets, pyarrow, fsspec and the hub client have no common class of errors
            message = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.name}: cannot be read ({message}); mend it, or run the same command again if the network failed"
            ) from error

    def position(self) -> Any:
        """The dataset's state."""
        return self._dataset.state_dict()

    def _text(self, row: dict[str, Any]) -> str:
        text = row.get(self._text_field, self)
        if text is None:
            return ""
        if not isinstance(text, str):
            found = "no such field" if text is self else f"{text!r} there"
            raise DataError(
                f"{self.name}: text_field '{self._text_field}' should hold text, a row has {found}; its fields are "
                f"{', '.join(row)}"
            )
        return text


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """What every source can say: its licence, and how many documents it has, which is then asserted."""

    license: str = "not stated"
    documents: int | None = None  # expected number; another number is refused
    limit: int | None = None  # take only the first ones

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        for key in ("documents", "limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"sources.{key}: {value} is out of range; allowed: >= 1, or null")
        if self.documents is not None and self.limit is not None:
            raise ConfigError("sources.documents: counts the whole source, which sources.limit cuts; give one of them")

    @abstractmethod
    def parts(self, folder: Path) -> list[Part]:
        """What to read, in order; `folder` is the recipe's."""

    def provenance(self, folder: Path) -> dict[str, Any]:
        """What the text was, for the manifest; equal provenance means equal text."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """`name: hub`: a dataset of the Hugging Face hub, streamed from a pinned commit."""

    path: str
    revision: str
    config: str | None = None
    split: str = "train"
    text_field: str = "text"

    def __post_init__(self) -> None:
        """Refuse a revision that can move."""
        super().__post_init__()
        if len(self.revision) != COMMIT_HASH or set(self.revision) - set("0123456789abcdef"):
            raise ConfigError(
                f"sources.revision: {self.revision!r} can move; give a commit, {COMMIT_HASH} hexadecimal digits"
            )

    def parts(self, folder: Path) -> list[Part]:
        """One part: the split."""

        def load() -> Any:
            from datasets import load_dataset  # a second of imports that no other source needs

            return load_dataset(self.path, self.config, revision=self.revision, split=self.split, streaming=True)

        return [DatasetPart(f"{self.path} ({self.split})", load, self.text_field)]


@dataclass(frozen=True, kw_only=True)
class FilesSource(Source):
    """`name: files`: local .jsonl (a document a line), .parquet (a document a row) or .txt (a document a file).

    `path` is a file or a glob pattern, relative to the recipe; files are read in the order of their names. `split_on`
    cuts each .txt into documents where that text stands, such as an empty line.
    """

    path: str
    text_field: str = "text"
    split_on: str | None = None

    def parts(self, folder: Path) -> list[Part]:
        """One part a file.

        Raises:
            DataError: no file matches, or a file of another kind.
        """
        return [self._part(path) for path in self._paths(folder)]

    def provenance(self, folder: Path) -> dict[str, Any]:
        """The recipe's entry with the SHA-256 of every file."""
        files = {os.path.relpath(path, folder): file_sha256(path) for path in self._paths(folder)}
        return {**asdict(self), "files": files}

    def _paths(self, folder: Path) -> list[Path]:
        found = glob.glob(str(folder / self.path), recursive=True)
        paths = sorted(Path(name) for name in found if Path(name).is_file())
        if not paths:
            raise DataError(f"sources.path: no file matches {folder / self.path}; the path is relative to the recipe")
        return paths

    def _part(self, path: Path) -> Part:
        reader = {".jsonl": "json", ".parquet": "parquet", ".txt": None}
        if path.suffix not in reader:
            raise DataError(f"{path}: is of a kind that cannot be read; allowed: {', '.join(reader)}")
        if reader[path.suffix] is None:
            if path.stat().st_size > WHOLE_TEXT:
                raise DataError(
                    f"{path}: is too large for a .txt ({WHOLE_TEXT:,} bytes at most); cut it, or use .jsonl"
                )
            return ListPart(str(path), lambda: texts_of(str(path), path.read_bytes(), self.split_on))
        if self.split_on is not None:
            raise ConfigError(f"sources.split_on: has no effect on {path.name}; it cuts .txt files")
        if path.stat().st_size == 0:
            return ListPart(str(path), lambda: iter(()))  # datasets has no schema to read there

        def load() -> Any:
            from datasets import load_dataset

            return load_dataset(reader[path.suffix], data_files=[glob.escape(str(path))], split="train", streaming=True)

        return DatasetPart(str(path), load, self.text_field)
