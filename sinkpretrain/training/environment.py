"""What a run ran on: versions, devices, the code's commit."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sinkpretrain.training.advisories import version_of

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


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that matter; None where one is not installed."""
    found: dict[str, str | None] = {"sinkpretrain": version_of("sinkpretrain"), "python": platform.python_version()}
    return found | {package: version_of(package) for package in PACKAGES}


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
