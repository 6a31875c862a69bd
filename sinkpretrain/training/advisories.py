"""Releases of packages that must not be installed beside this project: what each does, and what to do about it.

All of this is read from the metadata of what is installed: nothing is imported, since an import is what runs malware.
"""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sinkpretrain.errors import SinkpretrainError

Version = tuple[int, ...]
LIGHTNING = ("lightning", "pytorch-lightning")
REINSTALL = "install again with scripts/install"


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """Some releases of some packages: `releases`, or all before the release `before`, or every one."""

    packages: tuple[str, ...]
    releases: tuple[Version, ...] = ()
    before: Version | None = None
    kind: Literal["malicious", "vulnerable", "incompatible"]
    meaning: str
    remedy: str

    def covers(self, version: Version) -> bool:
        """Whether a release is meant."""
        if self.releases:
            return version in self.releases
        return self.before is None or version < self.before


ADVISORIES = (
    Advisory(
        packages=LIGHTNING,
        releases=((2, 6, 2), (2, 6, 3)),
        kind="malicious",
        meaning="its import starts a program that steals keys, tokens and passwords (GHSA-w37p-236h-pfx3)",
        remedy="uninstall it without importing it, replace every secret that this machine could read, and make the "
        "environment anew with scripts/install",
    ),
    Advisory(
        packages=LIGHTNING,
        before=(2, 6, 6),
        kind="vulnerable",
        meaning="load_from_checkpoint runs code that a checkpoint names, with weights_only too (CVE-2026-58659)",
        remedy=REINSTALL,
    ),
    Advisory(
        packages=("torch",),
        before=(2, 6),
        kind="vulnerable",
        meaning="torch.load runs code from a file, with weights_only too (CVE-2025-32434)",
        remedy=REINSTALL,
    ),
    Advisory(
        packages=("torch",),
        before=(2, 10),
        kind="vulnerable",
        meaning="a file that torch.load reads with weights_only can overwrite memory (CVE-2026-24747)",
        remedy=REINSTALL,
    ),
    Advisory(
        packages=("litdata", "torchvision"),
        kind="incompatible",
        meaning="it breaks the import of lightning beside this torch",
        remedy="uninstall it",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An installed release that an advisory is about."""

    package: str
    version: str
    kind: str
    meaning: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.package} {self.version} is {self.kind}: {self.meaning}; {self.remedy}"


def findings() -> list[Finding]:
    """What is installed and must not be; of each package the gravest advisory."""
    return list(_findings())


def refuse_malicious() -> None:
    """Raise where a release is installed whose import alone does harm.

    Raises:
        SinkpretrainError: which one, and what to do.
    """
    for finding in _findings():
        if finding.kind == "malicious":
            raise SinkpretrainError(str(finding))


def version_of(package: str) -> str | None:
    """The installed version; None where the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _findings() -> Iterator[Finding]:
    for package in dict.fromkeys(name for advisory in ADVISORIES for name in advisory.packages):
        version = version_of(package)
        about = [one for one in ADVISORIES if package in one.packages and version and one.covers(_numbers(version))]
        if version is not None and about:
            first = about[0]
            yield Finding(package=package, version=version, kind=first.kind, meaning=first.meaning, remedy=first.remedy)


def _numbers(version: str) -> Version:
    """The leading numbers of a version: (2, 6, 6) of 2.6.6.post1, (2, 6) of 2.6.6rc1."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
