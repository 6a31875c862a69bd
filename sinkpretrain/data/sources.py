"""Where text comes from: the Hugging Face hub, local files; `wheels.py` has text inside Python packages.

A source is a list of parts, read one after another (`parts.py`).
"""

import glob
import os
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sinkpretrain.data.json_lines import JsonLinesPart
from sinkpretrain.data.parts import LONGEST, DatasetPart, ListPart, Part, texts_of
from sinkpretrain.errors import ConfigError, DataError, check
from sinkpretrain.files import file_sha256

COMMIT_HASH = 40  # characters
KINDS = (".jsonl", ".parquet", ".txt")  # of local files


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
            check(value is None or value >= 1, f"sources.{key}", value, ">= 1, or null")
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
        check(self.path != "", "sources.path", self.path, "owner/name")
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

    def __post_init__(self) -> None:
        """Refuse a text to split on that stands everywhere."""
        super().__post_init__()
        check(self.split_on != "", "sources.split_on", self.split_on, "some text, or null")

    def parts(self, folder: Path) -> list[Part]:
        """One part a file.

        Raises:
            DataError: no file matches, or a file of another kind.
        """
        return [self._part(path) for path in self._paths(folder)]

    def provenance(self, folder: Path) -> dict[str, Any]:
        """The recipe's entry with the SHA-256 of every file.

        Raises:
            DataError: no file matches, or one cannot be read.
        """
        return {**asdict(self), "files": {os.path.relpath(path, folder): _sha256(path) for path in self._paths(folder)}}

    def _paths(self, folder: Path) -> list[Path]:
        pattern = str(folder / self.path)
        _refuse_circle(pattern)
        found = sorted(map(Path, glob.glob(pattern, recursive=True)))
        paths = [path for path in found if path.is_file()]
        if not paths and found:
            raise DataError(
                f"{found[0]}: is no file with text (a folder, a pipe, a device or a broken link); give files"
            )
        if not paths:
            raise DataError(f"sources.path: no file matches {pattern}; the path is relative to the recipe")
        return paths

    def _part(self, path: Path) -> Part:
        if path.suffix not in KINDS:
            raise DataError(f"{path}: is of a kind that cannot be read; allowed: {', '.join(KINDS)}")
        if path.suffix == ".txt":
            if path.stat().st_size > LONGEST:
                raise DataError(f"{path}: is too large for a .txt ({LONGEST:,} bytes at most); cut it, or use .jsonl")
            return ListPart(str(path), lambda: texts_of(str(path), path.read_bytes(), self.split_on))
        if self.split_on is not None:
            raise ConfigError(f"sources.split_on: has no effect on {path.name}; it cuts .txt files")
        if path.suffix == ".jsonl":
            return JsonLinesPart(path, self.text_field)
        if path.stat().st_size == 0:
            return ListPart(str(path), lambda: iter(()))  # datasets has no schema to read there

        def load() -> Any:
            from datasets import load_dataset

            return load_dataset("parquet", data_files=[glob.escape(str(path))], split="train", streaming=True)

        return DatasetPart(str(path), load, self.text_field)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give it read permission or leave it out") from None


def _refuse_circle(pattern: str) -> None:
    """Raise where `**` would come by a folder twice, as through a link to one above it, which has no end."""
    above, stars, _ = pattern.partition("**")
    seen: dict[str, str] = {}
    for base in glob.glob(above) if stars else []:
        for folder, inner, _ in os.walk(base, followlinks=True):
            other = seen.setdefault(os.path.realpath(folder), folder)
            if other != folder:
                raise DataError(
                    f"{folder}: is a link back to {other}, whose text would be read twice; name folders in path"
                )
            inner.sort()
