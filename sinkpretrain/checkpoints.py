"""Checkpoints: folders that are complete or absent, verified before use, found by scanning.

`step_00001000/` holds `model.safetensors`, `optimizer.pt` (read with `weights_only=True`), `state.json` (step and
counters) and `manifest.json` (SHA-256 of each). It is written under a temporary name beside its place, every file
fsynced, and renamed as the last act.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkpretrain.errors import ResumeError
from sinkpretrain.files import file_sha256

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one folder holds."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step_{step:08d}"


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint folder, rising; valid or not."""
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*") if path.is_dir())


def write(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    Tied weights are stored once, under the first of their names.
    """
    target = path_of(folder, step)
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_untied(model), temporary / "model.safetensors")
    torch.save(dict(optimizer), temporary / "optimizer.pt")
    (temporary / "state.json").write_text(json.dumps({**state, "step": step}, indent=2))
    hashes = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(hashes, indent=2))
    for path in (*temporary.iterdir(), temporary):
        _fsync(path)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    _fsync(folder)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(path_of(folder, old))
    return target


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, in a few words; None when every file is as it was written."""
    try:
        hashes = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in hashes.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if file_sha256(path / name) != expected:
            return f"{name} was altered"
    return None


def newest_valid(folder: Path) -> tuple[int | None, list[str]]:
    """The newest step whose checkpoint is whole (None: there is none), and what is wrong with newer ones."""
    problems: list[str] = []
    for step in reversed(steps(folder)):
        found = problem(path_of(folder, step))
        if found is None:
            return step, problems
        problems.append(f"{path_of(folder, step)}: {found}")
    return None, problems


def read(folder: Path, step: int, device: str = "cpu") -> Checkpoint:
    """A checkpoint, verified.

    Raises:
        ResumeError: it is missing or altered.
    """
    path = path_of(folder, step)
    found = problem(path)
    if found is not None:
        raise ResumeError(f"{path}: {found}; this checkpoint cannot be used")
    return Checkpoint(
        step=step,
        model=load_file(path / "model.safetensors", device=device),
        optimizer=torch.load(path / "optimizer.pt", map_location=device, weights_only=True),
        state=json.loads((path / "state.json").read_text()),
    )


def _untied(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, each storage once: safetensors refuses shared memory."""
    kept: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.items():
        kept.setdefault(tensor.data_ptr(), (name, tensor.contiguous()))
    return dict(kept.values())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
