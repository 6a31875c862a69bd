"""Files that appear whole or not at all, their hashes, and files that one process holds."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part, even after a power cut."""
    write_whole(path, lambda file: file.write(content))


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """`write_atomically`, for content that `write` puts into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Write an object as indented JSON, whole or not at all; NaN and infinity are refused, JSON has none."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hold(path: Path) -> IO[str] | None:
    """A file that is this process's alone until it is closed or the process ends; None where another process has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
