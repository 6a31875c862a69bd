"""What a run ran on: versions, devices, the code's commit; also the checks behind `doctor`."""

import importlib.metadata
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "lightning",
    "datasets",
    "tokenizers",
    "wandb",
    "numpy",
    "einops",
    "safetensors",
    "matplotlib",
    "transformers",
    "lm-eval",
)

# Releases that must not be installed beside this project, with the reason.
# (first good version, None: no version is good; the reason)
KNOWN_BAD: dict[str, tuple[tuple[int, ...] | None, str]] = {
    "lightning": ((2, 6, 6), "2.6.2 and 2.6.3 were malicious, up to 2.6.5 runs code from checkpoints"),
    "pytorch-lightning": ((2, 6, 6), "the same releases as lightning"),
    "litdata": (None, "breaks the import of lightning beside this torch"),
    "torchvision": (None, "breaks the import of lightning beside this torch"),
}


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that matter; None where one is not installed."""
    found: dict[str, str | None] = {"sinkpretrain": _version("sinkpretrain"), "python": platform.python_version()}
    return found | {package: _version(package) for package in PACKAGES}


def bad_packages() -> dict[str, str]:
    """Installed packages that must go, each with its version and the reason."""
    bad = {}
    for package, (first_good, reason) in KNOWN_BAD.items():
        version = _version(package)
        if version is not None and (first_good is None or _numbers(version) < first_good):
            bad[package] = f"{version}: {reason}"
    return bad


def devices() -> dict[str, Any]:
    """The processor, its threads as torch uses them, and the GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"platform": platform.platform(), "cpu_threads": torch.get_num_threads(), "gpus": gpus}


def commit() -> str | None:
    """The commit of the checkout this package lies in, with `+` where files differ from it; None outside of one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def describe() -> dict[str, Any]:
    """Everything above and the time (UTC), for environment.json."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return {"created": now, "command": sys.argv, "commit": commit(), "versions": versions(), **devices()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 6, 6) of 2.6.6.post1."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
