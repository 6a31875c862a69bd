"""Checkpoints: folders that are complete or absent, verified before use, found by scanning.

`step_00001000/` holds `model.safetensors`, `optimizer.pt` and `random.pt` (read with `weights_only=True`), `state.json`
(counters) and `manifest.json` (the step, and the SHA-256 of each). It is written under a temporary name beside its
place, every file synced, and renamed as the last act.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sinkpretrain.errors import DiskFullError, ResumeError
from sinkpretrain.files import FULL, file_sha256, full_disk, make_folder, remove_leftovers, sync

MANIFEST = "manifest.json"
MODEL, OPTIMIZER, RANDOM, STATE = FILES = ("model.safetensors", "optimizer.pt", "random.pt", "state.json")
OVERHEAD = 1 << 16  # bytes of a folder besides its tensors, generously
DAMAGED = "damaged_"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one folder holds."""

    step: int
    model: Mapping[str, Tensor]  # tied weights under the first of their names
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    random: Mapping[str, Tensor] = field(default_factory=dict)  # states of the random generators, a row a rank
    state: Mapping[str, Any] = field(default_factory=dict)  # plain JSON

    def tensors(self) -> list[Tensor]:
        """Every tensor."""
        return [leaf for leaf in tree_leaves([self.model, self.optimizer, self.random]) if isinstance(leaf, Tensor)]


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step_{step:08d}"


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint folder, rising; valid or not."""
    names = (re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*") if path.is_dir())
    return sorted(int(name[1]) for name in names if name)


def write(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`; nobody else may write to the folder meanwhile.

    Raises:
        DiskFullError: there is no room for it; the earlier ones stand.
    """
    target = path_of(folder, checkpoint.step)
    temporary = folder / f".{target.name}.tmp"
    make_folder(folder)
    remove_leftovers(folder)
    needed = sum(tensor.nbytes for tensor in checkpoint.tensors()) + OVERHEAD
    if needed > shutil.disk_usage(folder).free:
        raise DiskFullError(_no_room(folder, target, needed, os.strerror(errno.ENOSPC)))
    try:
        _fill(temporary, checkpoint)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (reason := _cut_short(error)) is not None:
            raise DiskFullError(_no_room(folder, target, needed, reason)) from error
        raise
    if target.exists():
        set_aside(target)
    temporary.rename(target)
    sync(folder)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(path_of(folder, old))
    return target


def set_aside(path: Path) -> None:
    """Rename a checkpoint that is damaged, or in the way, so that it is no longer one of them."""
    aside = path.with_name(f"{DAMAGED}{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, in a few words; None when every file is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        step, hashes = manifest["step"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST} is missing or unreadable"
    if hashes.keys() != set(FILES):
        return f"{MANIFEST} lists {', '.join(map(str, hashes)) or 'nothing'} instead of {', '.join(FILES)}"
    if step != _step_of(path):
        return f"{MANIFEST} is that of step {step}"
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
        ResumeError: it is missing, altered, or holds something else than tensors and numbers.
    """
    path = path_of(folder, step)
    found = problem(path)
    if found is not None:
        raise ResumeError(f"{path}: {found}; this checkpoint cannot be used")
    return _load(path, device)


def read_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, each verified once (None: there is none), and what is wrong with newer ones.

    Raises:
        ResumeError: it holds something else than tensors and numbers.
    """
    step, problems = newest_valid(folder)
    return None if step is None else _load(path_of(folder, step)), problems


def _load(path: Path, device: str = "cpu") -> Checkpoint:
    """A checkpoint that was verified.

    Raises:
        ResumeError: it holds something else than tensors and numbers.
    """

    def load(name: str, how: Callable[[Path], Any]) -> Any:
        try:
            return how(path / name)
        except Exception as error:  # unpicklers and parsers have no common class of errors
            reason = " ".join(str(error).split())[:200]
            raise ResumeError(f"{path / name}: is not what a checkpoint holds ({reason}); do not use it") from error

    return Checkpoint(
        step=_step_of(path),
        model=load(MODEL, lambda file: load_file(file, device=device)),
        optimizer=load(OPTIMIZER, lambda file: dict(torch.load(file, map_location=device, weights_only=True))),
        random=load(RANDOM, lambda file: dict(torch.load(file, map_location="cpu", weights_only=True))),
        state=load(STATE, lambda file: dict(json.loads(file.read_text()))),
    )


def _fill(folder: Path, checkpoint: Checkpoint) -> None:
    """Write every file of a checkpoint, down to the disk."""
    folder.mkdir()
    save_file(_untied(checkpoint.model), folder / MODEL)
    torch.save(dict(checkpoint.optimizer), folder / OPTIMIZER)
    torch.save(dict(checkpoint.random), folder / RANDOM)
    (folder / STATE).write_text(json.dumps(dict(checkpoint.state), indent=2))
    hashes = {name: file_sha256(folder / name) for name in FILES}
    (folder / MANIFEST).write_text(json.dumps({"step": checkpoint.step, "files": hashes}, indent=2))
    for path in (*folder.iterdir(), folder):
        sync(path)


def _cut_short(error: BaseException) -> str | None:
    """Why a file could not be written whole, where that is what the error says."""
    if isinstance(error, OSError) and error.errno in FULL:
        return os.strerror(error.errno)
    if isinstance(error, SafetensorError) and "I/O error" in str(error):
        return str(error).rpartition("I/O error: ")[2].partition(" (os error")[0]
    is_of_torch = isinstance(error, RuntimeError) and "inline_container" in str(error)
    return f"{OPTIMIZER} was cut short" if is_of_torch else None


def _no_room(folder: Path, target: Path, needed: int, reason: str) -> str:
    """The sentence on a checkpoint that could not be written."""
    newest, _ = newest_valid(folder)
    stands = "there is no earlier one" if newest is None else f"the one of step {newest} is whole"
    return f"{full_disk(target, needed, reason)}, then go on with --resume ({stands})"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _untied(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, each storage once: safetensors refuses shared memory."""
    kept: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.items():
        kept.setdefault(tensor.data_ptr(), (name, tensor.contiguous()))
    return dict(kept.values())
