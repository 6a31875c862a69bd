import json
import pickle
import shutil

import numpy as np
import pytest

from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import DataError


@pytest.fixture
def copy(store, tmp_path):
    """A store that a test may damage."""
    return shutil.copytree(store.root, tmp_path / "copy")


def rewrite_manifest(root, change):
    manifest = json.loads((root / "manifest.json").read_text())
    change(manifest)
    (root / "manifest.json").write_text(json.dumps(manifest))


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
    rewrite_manifest(copy, lambda manifest: manifest.update(vocab_size=store.vocab_size - 10))
    with pytest.raises(
        DataError, match=rf"_00000.bin: holds token \d+, the vocabulary ends at {store.vocab_size - 11}"
    ):
        TokenStore.open(copy).verify()


def test_what_is_no_store_is_refused_with_the_command(tmp_path, copy):
    with pytest.raises(DataError, match=r"there is no token store; run `sinkpretrain prepare RECIPE.yaml --out"):
        TokenStore.open(tmp_path / "nothing")
    with pytest.raises(DataError, match="there is no token store"):
        TokenStore.open(copy / "tokenizer.json")
    rewrite_manifest(copy, lambda manifest: manifest.update(format=99))
    with pytest.raises(DataError, match="has format 99, 1 can be read"):
        TokenStore.open(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json: cannot be read"):
        TokenStore.open(copy)
