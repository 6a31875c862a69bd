"""The documents of all sources of a recipe, in order, from any position."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sinkpretrain.data.parts import Part
from sinkpretrain.data.sources import Source
from sinkpretrain.errors import DataError


class Reader:
    """Reads one source after another.

    `state` is where the next document is, as plain JSON; another Reader made with it begins there. It may be taken
    after any document that the iterator gave out and before the next is asked for.
    """

    def __init__(self, sources: Sequence[Source], folder: Path, state: dict[str, Any] | None = None) -> None:
        self._sources, self._folder = sources, folder
        self._start = state or {"source": 0, "part": 0, "position": None, "read": [0] * len(sources)}
        self._source, self._part_number = self._start["source"], self._start["part"]
        self._part: Part | None = None
        self.read: list[int] = list(self._start["read"])  # documents of each source so far

    def state(self) -> dict[str, Any]:
        """Where the next document is."""
        position = self._start["position"] if self._part is None else self._part.position()
        return {"source": self._source, "part": self._part_number, "position": position, "read": list(self.read)}

    def where(self) -> str:
        """The last document given out, for a message."""
        return f"{self._part.name if self._part else 'the text'}, document {self.read[self._source]} of its source"

    def __iter__(self) -> Iterator[str]:
        for number in range(self._start["source"], len(self._sources)):
            source = self._sources[number]
            left = None if source.limit is None else source.limit - self.read[number]
            for text in islice(self._documents(number), left):
                self.read[number] += 1
                yield text
            wanted = source.documents or source.limit
            if wanted is not None and self.read[number] != wanted:
                key = "documents" if source.documents else "limit"
                raise DataError(
                    f"sources[{number}].{key}: {wanted:,} are wanted, the source has {self.read[number]:,}; it is "
                    "another or an incomplete copy"
                )

    def _documents(self, number: int) -> Iterator[str]:
        """The documents of one source, from the start position where that lies in it."""
        resumed = number == self._start["source"]
        parts = self._sources[number].parts(self._folder)
        for part_number in range(self._start["part"] if resumed else 0, len(parts)):
            self._source, self._part_number, self._part = number, part_number, parts[part_number]
            here = resumed and part_number == self._start["part"]
            yield from parts[part_number].documents(self._start["position"] if here else None)
