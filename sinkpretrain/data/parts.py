"""The parts of a source: a file, a member of an archive, a hub split, read one after another.

A part knows its position and can be opened there again, so that an interrupted preparation goes on without reading
from the start.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from sinkpretrain.errors import DataError

LONGEST = 1 << 30  # bytes of a document that is read whole; preparing it takes up to twelve times as much memory
SHOWN = 80  # characters of a wrong value in a message


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
        """The documents after the first `position`.

        Raises:
            DataError: it cannot be read.
        """
        self._done = position or 0
        try:
            for text in islice(self._read(), self._done, None):
                self._done += 1
                yield text
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({error.strerror or error})") from error

    def position(self) -> int:
        """How many documents were given out."""
        return self._done


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
                yield text_of(row, self._text_field, f"{self.name}: a row")
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


def text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text of a row; a null is an empty text. `where` is the row's, for messages.

    Raises:
        DataError: no such field, or something else than text in it.
    """
    if field not in row:
        raise DataError(f"{where} has no text_field '{field}', which should hold text; its fields are {', '.join(row)}")
    text = row[field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(f"{where} has {repr(text)[:SHOWN]} in text_field '{field}', which should hold text")
    return text
