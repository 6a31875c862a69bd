"""The errors a user can meet, each with the exit code the command line ends with.

A message is one sentence or two: which file or key, what was found, what is allowed, what to do.
"""

from collections.abc import Sequence


class SinkpretrainError(Exception):
    """Something went wrong that the user can understand and act on."""

    exit_code = 1


class ConfigError(SinkpretrainError, ValueError):
    """A key, a value or an argument that cannot be used as given."""

    exit_code = 2


class DataError(SinkpretrainError, ValueError):
    """Text, tokens or a manifest that is missing, altered or too small."""

    exit_code = 3


class NonFiniteError(SinkpretrainError, ArithmeticError):
    """The loss or its gradient became NaN or infinite, or the loss jumped; no update was made with it.

    `windows` are the training windows of that step that are to be looked at.
    """

    exit_code = 4

    def __init__(self, message: str, windows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.windows = list(windows)


class DiskFullError(SinkpretrainError):
    """Something could not be written for lack of room; what was written before stands."""


class ResumeError(SinkpretrainError, ValueError):
    """A run folder that cannot be continued: another configuration, other data, no valid checkpoint, or in use."""

    exit_code = 5


class Preempted(SinkpretrainError):
    """Training stopped on a signal after saving; the same command with `--resume` goes on."""

    exit_code = 75


class Interrupted(Preempted):
    """Training stopped on Ctrl-C after saving."""

    exit_code = 130


def check(condition: bool, key: str, value: object, allowed: str) -> None:
    """Refuse a value out of range, with the range."""
    if not condition:
        raise ConfigError(f"{key}: {value!r} is out of range; allowed: {allowed}")
