"""What a power cut takes from files that were not synced."""

from os import truncate  # as it is before a process is watched
from pathlib import Path

from matrix.disk import Touch


class Power:
    """Follows the touches of the disk below a folder, and what of each file is there for good.

    That is what was there when it was last synced; what a file had before this process is there too. Names are taken to
    be there for good: a rename that is not synced stays.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sure: dict[int, int] = {}  # bytes by the number of the inode

    def before(self, touch: Touch) -> None:
        """A file that was there is there for good."""
        path = self.folder / touch.path
        if touch.kind == "open" and path.is_file():
            self._sure.setdefault(path.stat().st_ino, path.stat().st_size)

    def after(self, touch: Touch) -> None:
        """What was written may be lost, what was synced not."""
        path = self.folder / touch.path
        if touch.kind not in ("open", "write", "fsync") or not path.is_file():
            return
        file = path.stat()
        synced = file.st_size if touch.kind == "fsync" else self._sure.get(file.st_ino, 0)
        self._sure[file.st_ino] = min(synced, file.st_size)

    def cut(self) -> None:
        """Take away what is not there for good."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path.stat().st_size > self._sure.get(path.stat().st_ino, path.stat().st_size):
                truncate(path, self._sure[path.stat().st_ino])
