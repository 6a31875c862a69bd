"""Malicious files: each makes the folder `marker` where something runs what is in it."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import torch


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(path: Path, marker: Path) -> None:
    """A bare pickle, as .ckpt, .bin, .pt and .npy files can be."""
    path.write_bytes(pickle.dumps({"state_dict": Evil(marker)}))


def saved_by_torch(path: Path, marker: Path) -> None:
    """A pickle in the archive that torch.save makes."""
    torch.save({"state_dict": Evil(marker)}, path)


def tag(marker: Path) -> str:
    """A YAML value that runs a command in loaders that build Python objects."""
    return f"!!python/object/apply:os.mkdir ['{marker}']"


def sign(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint anew, so that its altered files pass as what was written."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest))
