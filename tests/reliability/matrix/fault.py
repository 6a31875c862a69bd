"""One row of the fault matrix: a fault, how it is injected, what must hold."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matrix.workshop import Workshop


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One injection: what was done, whether everything held, and where not, what happened."""

    what: str
    held: bool
    happened: str = ""
    seconds: float | None = None  # where the row has a limit on time


class Fault(ABC):
    """A row. `quick` trials belong to `scripts/test` (0: too slow for it), `full` ones to the whole matrix.

    Trials differ by the number they are given, so that `quick` ones are the first of the `full` ones.
    """

    place: ClassVar[int]  # in the table
    name: ClassVar[str]
    how: ClassVar[str]
    must_hold: ClassVar[str]
    quick: ClassVar[int]
    full: ClassVar[int]

    @abstractmethod
    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """Inject it so many times."""

    def measured(self, trials: Sequence[Trial]) -> str:
        """What else the table says of the trials: the longest, a split by kind."""
        seconds = [trial.seconds for trial in trials if trial.seconds is not None]
        return f"{max(seconds):.1f} s at most" if seconds else ""
