"""Files that appear whole or not at all, what a full disk does to them, their hashes, files that one process holds."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.errors import DiskFullError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part, even after a power cut.

    Raises:
        DiskFullError: there is no room; the old content stands.
    """
    _write_whole(path, lambda file: file.write(content), len(content))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as an .npz file, like `write_atomically`."""
    size = sum(array.nbytes for array in arrays.values())
    _write_whole(path, lambda file: np.savez(file, **arrays), size)  # type: ignore[arg-type]


def _write_whole(path: Path, write: Callable[[IO[bytes]], Any], size: int) -> None:
    """`write_atomically`, for content of about `size` bytes that `write` puts into a file."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path, size), open(temporary, "wb", opener=_no_link) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


@contextmanager
def naming_full_disk(path: Path, size: int) -> Iterator[None]:
    """Say what does not fit where, if the file `path` cannot get the `size` bytes that are written inside."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(full_disk(path, size, os.strerror(error.errno))) from error


def full_disk(path: Path, size: int, reason: str) -> str:
    """The sentence on bytes that do not fit."""
    free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
    return f"{path}: cannot be written ({reason}): {size:,} bytes are needed, {free:,} are free there; make room"


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        DiskFullError: there is no room.
    """
    with naming_full_disk(path, 0):
        path.mkdir(parents=True, exist_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while writing left in a folder; nobody else may write there meanwhile."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def sync(path: Path) -> None:
    """Let a file's content, or the names in a folder, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write an object as indented JSON, whole or not at all; NaN and infinity are refused, JSON has none."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def so_far(path: Path) -> dict[str, Any]:
    """Length in bytes and SHA-256 of a file that is appended to; `begins` tells later whether it begins so."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def begins(path: Path, so: Mapping[str, Any]) -> bool:
    """Whether a file begins with what it was when `so_far` was asked."""
    with path.open("rb") as file:
        return bool(hashlib.sha256(file.read(so["bytes"])).hexdigest() == so["sha256"])


def hold(path: Path) -> IO[str] | None:
    """A file that is this process's alone until it is closed or the process ends; None where another process has it.

    Processes that it forks, such as data workers, may outlive it for a while and do not hold the file.

    Raises:
        OSError: it cannot be opened, or is a symbolic link.
    """
    with naming_full_disk(path, 0):
        file = open(path, "a", opener=_no_link)  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    _held.add(file)
    return file


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; it is in the operating system's hands when this returns.

    Raises:
        DiskFullError: there is no room.
        OSError: the file cannot be opened, or is a symbolic link.
    """
    with naming_full_disk(path, len(line) + 1), open(path, "a", encoding="utf-8", opener=_no_link) as file:
        file.write(line + "\n")


def _no_link(path: str, flags: int) -> int:
    """Open a file itself, not what a link of its name leads to: a folder may come from a stranger."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


_held: "WeakSet[IO[str]]" = WeakSet()


def _let_go() -> None:
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_let_go)
