"""Every place where a process changes the disk below a folder, watched from inside: to count them, to end it there."""

import builtins
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sinkpretrain import checkpoints

CHANGES = ("fsync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir", "truncate", "ftruncate")  # of `os`


@dataclass(frozen=True, kw_only=True)
class Touch:
    """One change of the disk."""

    number: int  # from 0, in the order they happen
    kind: str  # of CHANGES, or open, write
    path: str  # below the folder

    @property
    def can_be_half(self) -> bool:
        """Whether a process can end in the middle of it."""
        return self.kind == "write"


class Disk:
    """Calls `before` ahead of each touch and `after` behind it. Where `before` gives True, half of it is written.

    It plants itself in this process, which it is never taken out of again.
    """

    def __init__(
        self, folder: Path, before: Callable[[Touch], bool | None], after: Callable[[Touch], Any] = lambda touch: None
    ) -> None:
        self.folder = os.path.realpath(folder)
        self.before, self.after = before, after
        self._count = 0
        for name in CHANGES:
            setattr(os, name, self._change(name, getattr(os, name)))
        builtins.open = io.open = self._opening(io.open)  # type: ignore[assignment]
        torch.save = self._saving(torch.save)
        checkpoints.save_file = self._saving(checkpoints.save_file)  # type: ignore[assignment]

    def touch(self, kind: str, place: Any, whole: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do something that changes the disk at a place, or half of it."""
        path = _path(place)
        if path != self.folder and not path.startswith(self.folder + os.sep):
            return whole()
        touch = Touch(number=self._count, kind=kind, path=os.path.relpath(path, self.folder))
        self._count += 1
        wants_half = self.before(touch)
        result = half() if wants_half and half else whole()
        self.after(touch)
        return result

    def _change(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def changed(place: Any, *rest: Any, **keys: Any) -> Any:
            at = keys.get("dir_fd")
            whole_place = place if at is None else os.path.join(_path(at), os.fspath(place))
            if name == "mkdir" and os.path.isdir(whole_place):
                return original(place, *rest, **keys)  # changes nothing
            return self.touch(name, whole_place, lambda: original(place, *rest, **keys))

        return changed

    def _opening(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(place: Any, mode: str = "r", *rest: Any, **keys: Any) -> Any:
            if not set(mode) & set("wax+") or isinstance(place, int):
                return original(place, mode, *rest, **keys)
            file = self.touch("open", place, lambda: original(place, mode, *rest, **keys))
            return _Watched(self, file, place)

        return opened

    def _saving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A function of a library that writes a file in one call, out of Python's sight."""

        def saved(content: Any, place: Any, *rest: Any, **keys: Any) -> Any:
            if hasattr(place, "write"):
                return original(content, place, *rest, **keys)

            def half() -> None:
                original(content, place, *rest, **keys)
                with open(place, "rb+") as file:
                    file.truncate(os.path.getsize(place) // 2)

            return self.touch("write", place, lambda: original(content, place, *rest, **keys), half)

        return saved


def list_touches(folder: Path, listing: Path) -> None:
    """Plant: write a line for every touch of the disk below the folder."""
    descriptor = os.open(listing, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def note(touch: Touch) -> None:
        os.write(descriptor, (json.dumps(asdict(touch)) + "\n").encode())

    Disk(folder, note)


def listed(listing: Path) -> list[Touch]:
    """The touches that were listed."""
    return [Touch(**json.loads(line)) for line in listing.read_text().splitlines()]


class _Watched:
    """A file whose writes are touches of the disk: each is passed on at once."""

    def __init__(self, disk: Disk, file: Any, place: Any) -> None:
        self._disk, self._file, self._place = disk, file, place

    def write(self, content: Any) -> Any:
        return self._disk.touch(
            "write", self._place, lambda: self._pass_on(content), lambda: self._pass_on(content[: len(content) // 2])
        )

    def _pass_on(self, content: Any) -> Any:
        written = self._file.write(content)
        self._file.flush()
        return written

    def __enter__(self) -> "_Watched":
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _path(place: Any) -> str:
    """Where a path, an open file or its number lies."""
    if hasattr(place, "fileno"):
        place = place.fileno()
    return os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.path.realpath(os.fspath(place))
