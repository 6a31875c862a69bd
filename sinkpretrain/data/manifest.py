"""The manifest of a token store: what the store says of itself, with a checksum, read only where it can be true.

Format 2 holds under `own_sha256` the SHA-256 of the whole file, taken with zeros in place of its own 64 digits, so that
no byte of it can change unseen. Format 1 had none; such stores are still read.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sinkpretrain.errors import DataError

FORMAT, READABLE = 2, (1, 2)
SPLITS = ("train", "validation")
MANIFEST, PROGRESS, TOKENIZER, TOKEN_BYTES = "manifest.json", "progress.json", "tokenizer.json", "token_bytes.npy"
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
INDEX_DTYPE = np.dtype("<i8")
CHECKSUM, UNSET = "own_sha256", 64 * "0"
MEND = "copy it anew or delete the store and prepare it again"

# What stands where. Every number is a count or a fraction: not negative.
WHOLE = {
    "identity": str,
    "recipe": dict,
    "sources": list,
    "tokenizer_sha256": str,
    "vocab_size": int,
    "separator": str,
    "separator_id": int,
    "dtype": str,
    "token_bytes_exact": bool,
    "splits": dict,
    "files": dict,
}
SPLIT = {
    "documents": int,
    "tokens": int,
    "bytes": int,
    "bytes_per_token": float,
    "unigram_entropy_nats": float,
    "shards": list,
}
SHARD = {"tokens": int, "documents": int}
FILE = {"bytes": int, "sha256": str}
NAMES = {
    str: "text",
    dict: "a mapping",
    list: "a list",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def shard_names(split: str, number: int) -> tuple[str, str]:
    """File names of a shard's tokens and of its document index."""
    return f"{split}_{number:05d}.bin", f"{split}_{number:05d}.idx"


def sealed(content: Mapping[str, Any]) -> bytes:
    """The JSON file of a mapping, its format and checksum put in front."""
    unset = json.dumps({"format": FORMAT, CHECKSUM: UNSET, **content}, indent=2, allow_nan=False) + "\n"
    return unset.replace(UNSET, hashlib.sha256(unset.encode()).hexdigest(), 1).encode()


def unsealed(path: Path, content: bytes) -> dict[str, Any]:
    """The mapping in such a file.

    Raises:
        DataError: not JSON, another format, or any byte that is not as it was written.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {MEND}") from None
    version = found.get("format") if isinstance(found, dict) else None
    if type(version) is not int or version not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise DataError(f"{path}: has format {version!r}, {readable} can be read; prepare the store anew")
    if version > 1 or CHECKSUM in found:
        stated = found.get(CHECKSUM)
        if not _is_sha256(stated):
            raise DataError(f"{path}: {CHECKSUM} is {stated!r}, not 64 hexadecimal digits; {MEND}")
        actual = hashlib.sha256(content.replace(stated.encode(), UNSET.encode(), 1)).hexdigest()
        if actual != stated:
            raise DataError(f"{path}: was altered (its SHA-256 is {actual[:12]}..., it says {stated[:12]}...); {MEND}")
    return dict(found)


def read_manifest(root: Path) -> tuple[dict[str, Any], str]:
    """The manifest of a finished store, and the SHA-256 of its file.

    Raises:
        DataError: no store, an unfinished one, another format, a manifest that was altered or contradicts itself.
    """
    path = root / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_not_a_store(root)) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte in it
        raise DataError(f"{path}: cannot be read ({error}); {MEND}") from None
    manifest = unsealed(path, content)
    try:
        _check_parts(manifest)
        _check_sums(manifest)
    except _Contradiction as contradiction:
        raise DataError(f"{path}: {contradiction}; {MEND}") from None
    return manifest, hashlib.sha256(content).hexdigest()


class _Contradiction(Exception):
    """What a manifest says that cannot be."""


def _require(condition: bool, contradiction: str) -> None:
    if not condition:
        raise _Contradiction(contradiction)


def _check_parts(manifest: Mapping[str, Any]) -> None:
    """Raise where a part is missing or of another type."""
    _check_types(manifest, WHOLE, "")
    splits, files = manifest["splits"], manifest["files"]
    _require(tuple(splits) == SPLITS, f"splits are {', '.join(splits) or 'none'}, not {', '.join(SPLITS)}")
    for split, entry in splits.items():
        _check_types(entry, SPLIT, f"splits.{split}")
        _require(len(entry["shards"]) > 0, f"splits.{split}.shards is empty")
        for number, shard in enumerate(entry["shards"]):
            _check_types(shard, SHARD, f"splits.{split}.shards[{number}]")
    for name, entry in files.items():
        _check_types(entry, FILE, f"files.{name}")
        _require(_is_sha256(entry["sha256"]), f"files.{name}.sha256 is {entry['sha256']!r}, not 64 hexadecimal digits")


def _check_types(found: Any, kinds: Mapping[str, type], where: str) -> None:
    _require(isinstance(found, dict), f"{where} is {found!r}, not a mapping")
    for key, kind in kinds.items():
        at = f"{where}.{key}" if where else key
        _require(key in found, f"{at} is missing")
        value = found[key]
        of_kind = type(value) is kind or (kind is float and type(value) is int)
        _require(of_kind, f"{at} is {value!r}, not {NAMES[kind]}")
        if kind in (int, float):
            _require(0 <= value < float("inf"), f"{at} is {value!r}, which no count can be")


def _check_sums(manifest: Mapping[str, Any]) -> None:
    """Raise where counts contradict each other or the files that are listed."""
    vocabulary, separator, name = (manifest[key] for key in ("vocab_size", "separator_id", "dtype"))
    _require(name in DTYPES, f"dtype is {name!r}, not one of {', '.join(DTYPES)}")
    room = int(np.iinfo(DTYPES[name]).max) + 1
    _require(2 <= vocabulary <= room, f"vocab_size is {vocabulary}, not between 2 and the {room} ids of {name}")
    _require(separator < vocabulary, f"separator_id is {separator}, the vocabulary ends at {vocabulary - 1}")
    sizes: dict[str, int | None] = {TOKENIZER: None, TOKEN_BYTES: None}
    for split, entry in manifest["splits"].items():
        for key in SHARD:
            total = sum(shard[key] for shard in entry["shards"])
            _require(entry[key] == total, f"splits.{split}.{key} is {entry[key]}, its shards have {total}")
        for number, shard in enumerate(entry["shards"]):
            documents, tokens = shard["documents"], shard["tokens"]
            at = f"splits.{split}.shards[{number}]"
            _require(1 <= documents < tokens, f"{at} has {documents} documents in {tokens} tokens")
            data, index = shard_names(split, number)
            sizes[data], sizes[index] = tokens * DTYPES[name].itemsize, documents * INDEX_DTYPE.itemsize
    _check_files(manifest["files"], sizes)
    tokenizer, listed = manifest["tokenizer_sha256"], manifest["files"][TOKENIZER]["sha256"]
    _require(tokenizer == listed, f"tokenizer_sha256 is {tokenizer[:12]}..., files.{TOKENIZER} has {listed[:12]}...")


def _check_files(files: Mapping[str, Any], sizes: Mapping[str, int | None]) -> None:
    """Raise where a file is missing from the list, is no part of a store, or has another size than its counts ask."""
    missing, strange = sorted(set(sizes) - set(files)), sorted(set(files) - set(sizes))
    _require(not missing, f"files lacks {', '.join(missing[:3])}, which its splits need")
    _require(not strange, f"files names {', '.join(map(repr, strange[:3]))}, no file of a token store")
    for name, size in sizes.items():
        found = files[name]["bytes"]
        _require(size in (None, found), f"files.{name}.bytes is {found}, its counts make {size}")


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == len(UNSET) and not set(value) - set("0123456789abcdef")


def _not_a_store(root: Path) -> str:
    """Why a folder without a manifest cannot be used, and what to do."""
    if (root / PROGRESS).is_file():
        return f"{root}: the token store is unfinished; run `sinkpretrain prepare` again, it goes on where it stopped"
    return f"{root}: there is no token store; run `sinkpretrain prepare RECIPE.yaml --out {root}`"
