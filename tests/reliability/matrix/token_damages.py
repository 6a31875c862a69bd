"""What can befall the folder of a token store: each function draws one damage of its kind."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from sinkpretrain.data.manifest import CHECKSUM, MANIFEST, sealed, shard_names
from sinkpretrain.data.store import TokenStore
from sinkpretrain.files import file_sha256


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something done to the folder of a store, and the files that must be named for it."""

    kind: str
    what: str
    names: tuple[str, ...]
    do: Callable[[Path], object]


def _file(random: Random, store: TokenStore) -> tuple[str, int]:
    """Any file of a store, its manifest as often as all others together, and its size."""
    name = random.choice([MANIFEST, random.choice(sorted(store.manifest["files"]))])
    return name, (store.root / name).stat().st_size


def any_flip(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """One bit of any file."""
    name, size = _file(random, sound)
    place, bit = random.randrange(size), random.randrange(8)

    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1 << bit
        (folder / name).write_bytes(content)

    return Damage(kind="flips", what=f"bit {bit} of byte {place} of {name}", names=(name,), do=flip)


def any_cut(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """Any file cut short."""
    name, size = _file(random, sound)
    length = random.randrange(size)
    return Damage(
        kind="truncations",
        what=f"{name} to {length} of {size} bytes",
        names=(name,),
        do=lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length]),
    )


def any_tail(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """Some bytes after the end of any file."""
    name, _ = _file(random, sound)
    tail = random.randbytes(random.choice([1, 2, 8, 4096]))
    return Damage(
        kind="tails",
        what=f"{len(tail)} bytes after {name}",
        names=(name,),
        do=lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + tail),
    )


def removed_file(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """A file that the manifest lists is missing."""
    name = random.choice(sorted(sound.manifest["files"]))
    return Damage(kind="missing files", what=name, names=(name,), do=lambda folder: (folder / name).unlink())


def swapped_shards(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """Two shards, their indexes or both, as a careless copy would."""
    numbers = random.sample(range(len(sound.manifest["splits"]["train"]["shards"])), 2)
    pairs = list(zip(*(shard_names("train", number) for number in numbers), strict=True))
    chosen = random.choice([pairs, pairs[:1], pairs[1:]])

    def swap(folder: Path) -> None:
        for one, other in chosen:
            contents = (folder / one).read_bytes(), (folder / other).read_bytes()
            (folder / other).write_bytes(contents[0])
            (folder / one).write_bytes(contents[1])

    names = tuple(name for pair in chosen for name in pair)
    return Damage(kind="swapped shards", what=", ".join(names), names=names, do=swap)


def foreign_file(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """A file of a store of the same text with another vocabulary, at times made as long as the manifest says."""
    fits = random.random() < 0.7
    contents = {}
    for name in sorted(set(sound.manifest["files"]) & set(foreign.manifest["files"])):
        own, content = (sound.root / name).read_bytes(), (foreign.root / name).read_bytes()
        contents[name] = content[: len(own)].ljust(len(own), b"\0") if fits else content
        if contents[name] == own:  # as the last shard may be, where no rare token stands in it
            del contents[name]
    name = random.choice(list(contents))
    return Damage(
        kind="foreign files",
        what=f"{name}{' of the listed size' if fits else ''}",
        names=(name,),
        do=lambda folder: (folder / name).write_bytes(contents[name]),
    )


def token_beyond(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """A token that no row of the embedding has, in a store whose hashes all fit: the hashes cannot see it."""
    shards = len(sound.manifest["splits"]["train"]["shards"])
    name = shard_names("train", random.randrange(shards))[0]
    tokens = np.fromfile(sound.root / name, dtype=sound.dtype)
    tokens[random.randrange(len(tokens))] = token = random.randrange(sound.vocab_size, 1 << 16)

    def put(folder: Path) -> None:
        (folder / name).write_bytes(tokens.tobytes())
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["files"][name]["sha256"] = file_sha256(folder / name)
        del manifest["format"], manifest[CHECKSUM]
        (folder / MANIFEST).write_bytes(sealed(manifest))

    return Damage(kind="tokens beyond", what=f"{token} in {name}, hashes made to fit", names=(name,), do=put)


def edited_manifest(random: Random, sound: TokenStore, foreign: TokenStore) -> Damage:
    """A manifest that was edited by hand."""
    entry = random.choice(sorted(sound.manifest["files"]))
    what, edit = random.choice(
        [
            ("vocab_size one more", lambda manifest: manifest.update(vocab_size=manifest["vocab_size"] + 1)),
            ("separator_id one less", lambda manifest: manifest.update(separator_id=manifest["separator_id"] ^ 1)),
            ("token_bytes_exact false", lambda manifest: manifest.update(token_bytes_exact=False)),
            ("bytes of a split", lambda manifest: manifest["splits"]["validation"].update(bytes=1)),
            (f"{entry} left out of files", lambda manifest: manifest["files"].pop(entry)),
            (f"hash of {entry}", lambda manifest: manifest["files"][entry].update(sha256=64 * "0")),
            ("a shard left out", lambda manifest: manifest["splits"]["train"]["shards"].pop()),
        ]
    )

    def do(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        edit(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    return Damage(kind="edited manifests", what=what, names=(MANIFEST,), do=do)


DAMAGES = (
    any_flip,
    any_cut,
    any_flip,
    swapped_shards,
    any_flip,
    token_beyond,
    any_flip,
    any_tail,
    any_flip,
    foreign_file,
    removed_file,
    edited_manifest,
)
