import hashlib
import json
import pickle
import shutil

import numpy as np
import pytest

from sinkpretrain.data.manifest import sealed
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import DataError


@pytest.fixture
def copy(store, tmp_path):
    """A store that a test may damage."""
    return shutil.copytree(store.root, tmp_path / "copy")


def rewrite_manifest(root, change):
    """Change a manifest as who forges a store would: its checksum is made to fit."""
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["format"], manifest["own_sha256"]
    change(manifest)
    path.write_bytes(sealed(manifest))


def rewrite_file(root, name, content):
    """Change a file so that the manifest agrees."""
    (root / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(root, lambda manifest: manifest["files"].update({name: entry}))


def test_a_sound_store_verifies_and_has_one_identity(store, copy):
    opened = TokenStore.open(copy)
    opened.verify()
    assert opened.fingerprint == store.fingerprint
    rewrite_manifest(copy, lambda manifest: manifest.update(identity="another"))
    assert TokenStore.open(copy).fingerprint != store.fingerprint


def test_slices_are_those_of_one_long_array(store, streams):
    stream, expected = store.tokens("train"), streams["train"]
    assert len(store.manifest["splits"]["train"]["shards"]) > 3
    assert len(stream) == len(expected)
    bounds = [None, 0, 1, 899, 900, 1200, 2500, len(expected) - 1, len(expected), len(expected) + 9, -1, -2000]
    for start in bounds:
        for stop in bounds:
            np.testing.assert_array_equal(stream[start:stop], expected[start:stop])
    assert stream[5:5].dtype == expected.dtype
    with pytest.raises(ValueError, match="step 1 only"):
        stream[::2]


def test_a_pickled_store_holds_no_tokens_and_works(store, streams):
    store.tokens("train")[0:5]
    content = pickle.dumps(store)
    assert len(content) < 8_000
    np.testing.assert_array_equal(pickle.loads(content).tokens("train")[0:3000], streams["train"][:3000])


def test_an_unknown_split_is_refused(store):
    with pytest.raises(ValueError, match="'test': is not one of train, validation"):
        store.tokens("test")


@pytest.mark.parametrize("name", ["train_00001.bin", "validation_00000.idx", "tokenizer.json", "token_bytes.npy"])
def test_an_altered_file_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: was altered"):
        TokenStore.open(copy).verify()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "train_00001.bin: is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "train_00001.bin: has .* bytes, the manifest says"),
    ],
)
def test_a_missing_or_cut_file_is_refused_on_opening(copy, damage, message):
    damage(copy / "train_00001.bin")
    with pytest.raises(DataError, match=message):
        TokenStore.open(copy)


def test_a_token_outside_the_vocabulary_is_refused(copy, store):
    tokens = np.fromfile(copy / "train_00001.bin", dtype="<u2")
    tokens[7] = store.vocab_size
    rewrite_file(copy, "train_00001.bin", tokens.tobytes())
    end = store.vocab_size - 1
    with pytest.raises(DataError, match=rf"train_00001.bin: holds token {end + 1}, the vocabulary ends at {end}"):
        TokenStore.open(copy).verify()


@pytest.mark.parametrize(
    "move",
    [
        lambda starts: starts + 1,
        lambda starts: starts[::-1],
        lambda starts: np.where(np.arange(len(starts)) == 2, starts[1], starts),
        lambda starts: np.where(np.arange(len(starts)) == len(starts) - 1, 1 << 40, starts),
        lambda starts: np.where(np.arange(len(starts)) == 0, -1, starts),
    ],
    ids=["shifted", "backwards", "twice", "beyond the end", "before the start"],
)
@pytest.mark.parametrize("block", [1 << 20, 2], ids=["at once", "in blocks"])
def test_documents_that_do_not_follow_one_another_are_refused(copy, monkeypatch, move, block):
    monkeypatch.setattr("sinkpretrain.data.store.BLOCK", block)
    TokenStore.open(copy).verify()
    for name in ("train_00000.idx", "train_00001.idx"):
        sound = (copy / name).read_bytes()
        rewrite_file(copy, name, move(np.frombuffer(sound, dtype="<i8")).astype("<i8").tobytes())
        with pytest.raises(DataError, match=f"{name}: its documents do not follow one another in tokens"):
            TokenStore.open(copy).verify()
        rewrite_file(copy, name, sound)


def test_a_tokenizer_of_another_vocabulary_is_refused(copy):
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["vocab"]["ΩΩ"] = len(content["model"]["vocab"])
    rewrite_file(copy, "tokenizer.json", json.dumps(content).encode())
    own = hashlib.sha256((copy / "tokenizer.json").read_bytes()).hexdigest()
    rewrite_manifest(copy, lambda manifest: manifest.update(tokenizer_sha256=own))
    with pytest.raises(DataError, match=r"tokenizer.json: has \d+ token ids, the manifest says"):
        TokenStore.open(copy).verify()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no array", "cannot be read"), (b"", "cannot be read"), (None, "holds float64 of shape")],
)
def test_bytes_by_token_of_another_kind_are_refused(copy, tmp_path, content, message):
    if content is None:
        np.save(tmp_path / "floats.npy", np.zeros(9))
        content = (tmp_path / "floats.npy").read_bytes()
    rewrite_file(copy, "token_bytes.npy", content)
    with pytest.raises(DataError, match=rf"token_bytes.npy: {message}"):
        TokenStore.open(copy).verify()


def test_what_is_no_store_is_refused_with_the_command(tmp_path, copy):
    with pytest.raises(DataError, match=r"there is no token store; run `sinkpretrain prepare RECIPE.yaml --out"):
        TokenStore.open(tmp_path / "nothing")
    with pytest.raises(DataError, match="there is no token store"):
        TokenStore.open(copy / "tokenizer.json")
    (copy / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="has format 99, 1 and 2 can be read"):
        TokenStore.open(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json: cannot be read"):
        TokenStore.open(copy)
