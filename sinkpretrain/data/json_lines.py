"""Text in JSON lines: one object a line, one document an object."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sinkpretrain.data.parts import LONGEST, Part, text_of
from sinkpretrain.errors import DataError


class JsonLinesPart(Part):
    """A .jsonl file, of which one line is in memory; its position is where the next line begins, and its number."""

    def __init__(self, path: Path, text_field: str) -> None:
        super().__init__(str(path))
        self._path, self._text_field = path, text_field
        self._byte, self._line = 0, 0

    def documents(self, position: Any) -> Iterator[str]:
        """The text field of each line; a null is an empty document, an empty line is none.

        Raises:
            DataError: the file cannot be read, or a line is too long, no UTF-8, no JSON object, or without text.
        """
        self._byte, self._line = position or (0, 0)
        try:
            with self._path.open("rb") as file:
                file.seek(self._byte)
                while line := file.readline(LONGEST + 1):
                    self._byte, self._line = file.tell(), self._line + 1
                    if line.strip():
                        yield text_of(self._row(line), self._text_field, f"{self.name}: line {self._line}")
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({error.strerror})") from error

    def position(self) -> list[int]:
        """Byte and number of the lines given out."""
        return [self._byte, self._line]

    def _row(self, line: bytes) -> Mapping[str, Any]:
        where = f"{self.name}: line {self._line}"
        if len(line) > LONGEST:
            raise DataError(f"{where} is longer than {LONGEST:,} bytes; a document of that size is to be cut")
        try:
            row = json.loads(line.decode("utf-8-sig" if self._line == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not valid UTF-8 ({error}); convert it, for example with iconv") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} cannot be read as JSON ({error}); mend or remove it") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{where} holds a {type(row).__name__}; an object with text under '{self._text_field}' is wanted"
            )
        return row
