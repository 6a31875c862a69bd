"""A manifest is believed only where no byte of it has changed and what it says can be true."""

import copy
import hashlib
import json

import pytest

from sinkpretrain.data.manifest import FILE, SHARD, SPLIT, WHOLE, read_manifest, sealed
from sinkpretrain.data.prepare import prepare
from sinkpretrain.errors import DataError


@pytest.fixture
def content(store):
    """What the manifest of a sound store says, without what `sealed` adds."""
    found = copy.deepcopy(store.manifest)
    del found["format"], found["own_sha256"]
    return found


@pytest.fixture
def refused(tmp_path):
    """The message that a manifest is refused with."""

    def refused(content: bytes) -> str:
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_manifest(tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'manifest.json'}: "), message
        return message

    return refused


def at(content, path):
    """The mapping or list at a path of keys and numbers."""
    for key in path:
        content = content[key]
    return content


PARTS = [
    *[((), key, kind) for key, kind in WHOLE.items()],
    *[(("splits", "train"), key, kind) for key, kind in SPLIT.items()],
    *[(("splits", "train", "shards", 1), key, kind) for key, kind in SHARD.items()],
    *[(("files", "train_00000.bin"), key, kind) for key, kind in FILE.items()],
]


def test_a_manifest_is_read_as_it_was_written(store, content, tmp_path):
    (tmp_path / "manifest.json").write_bytes(sealed(content))
    manifest, fingerprint = read_manifest(tmp_path)
    assert manifest == store.manifest
    assert fingerprint == store.fingerprint == hashlib.sha256(sealed(content)).hexdigest()


def test_its_checksum_can_be_checked_by_hand(store):
    written = (store.root / "manifest.json").read_text()
    stated = store.manifest["own_sha256"]
    assert hashlib.sha256(written.replace(stated, 64 * "0").encode()).hexdigest() == stated


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_seen(store, refused, bit):
    sound = (store.root / "manifest.json").read_bytes()
    for place in range(bit, len(sound), 8):
        altered = bytearray(sound)
        altered[place] ^= 1 << bit
        refused(bytes(altered))


def test_every_cut_and_every_tail_is_seen(store, refused):
    sound = (store.root / "manifest.json").read_bytes()
    for length in range(0, len(sound), 37):
        refused(sound[:length])
    for tail in (b" ", b"\n", b"\0", b"x"):
        refused(sound + tail)
    refused(sound.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b"\xff\xfe", b"[]", b"3", b"null", b"{}", b'{"format": true}', b'{"format": [1]}']
)
def test_what_is_no_manifest_is_refused_in_a_sentence(refused, content):
    assert len(refused(content)) < 500


@pytest.mark.parametrize(("path", "key", "kind"), PARTS, ids=[".".join(map(str, (*p, key))) for p, key, _ in PARTS])
def test_a_missing_part_or_one_of_another_type_is_named(content, refused, path, key, kind):
    where = ".".join(map(str, (*path, key))).replace(".shards.1", ".shards[1]")
    sound = at(content, path)[key]
    del at(content, path)[key]
    assert f"{where} is missing" in refused(sealed(content))
    wrong = ["text", 3.5, [1], {"a": 1}, True, None] + ([-1] if kind in (int, float) else [])
    for value in wrong:
        if type(value) is kind and not (kind is float and value < 0):
            continue
        at(content, path)[key] = value
        assert where in refused(sealed(content)), value
    at(content, path)[key] = sound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(vocab_size=1), "vocab_size is 1, not between 2 and the 65536 ids of uint16"),
        (lambda m: m.update(vocab_size=70_000), "vocab_size is 70000, not between"),
        (lambda m: m.update(separator_id=m["vocab_size"]), "separator_id is 320, the vocabulary ends at 319"),
        (lambda m: m.update(dtype="uint64"), "dtype is 'uint64', not one of uint16, uint32"),
        (lambda m: m.update(dtype="uint32"), r"files.train_00000.bin.bytes is \d+, its counts make \d+"),
        (
            lambda m: m.update(tokenizer_sha256=64 * "a"),
            "tokenizer_sha256 is aaaaaaaaaaaa..., files.tokenizer.json has",
        ),
        (lambda m: m["splits"].pop("validation"), "splits are train, not train, validation"),
        (lambda m: m["splits"].update(test=m["splits"]["train"]), "splits are train, validation, test, not"),
        (lambda m: m["splits"]["train"].update(shards=[]), "splits.train.shards is empty"),
        (lambda m: m["splits"]["train"].update(tokens=7), r"splits.train.tokens is 7, its shards have \d+"),
        (lambda m: m["splits"]["train"].update(documents=7), r"splits.train.documents is 7, its shards have \d+"),
        (lambda m: m["splits"]["train"]["shards"].pop(), r"splits.train.tokens is \d+, its shards have"),
        (lambda m: m["files"].pop("train_00001.bin"), "files lacks train_00001.bin, which its splits need"),
        (lambda m: m["files"].pop("token_bytes.npy"), "files lacks token_bytes.npy"),
        (lambda m: m["files"].update({"../x": m["files"]["tokenizer.json"]}), "files names '../x', no file of a token"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["tokenizer.json"]}), "files names '/etc/passwd'"),
        (lambda m: m["files"]["train_00000.idx"].update(bytes=8), "files.train_00000.idx.bytes is 8, its counts make"),
        (lambda m: m["files"]["train_00000.idx"].update(sha256="F" * 64), "files.train_00000.idx.sha256 is 'FFF"),
        (lambda m: m["files"]["train_00000.idx"].update(sha256="abc"), "sha256 is 'abc', not 64 hexadecimal digits"),
    ],
)
def test_a_contradiction_is_named_even_under_a_checksum_that_fits(content, refused, change, message):
    change(content)
    with pytest.raises(DataError, match=message):
        raise DataError(refused(sealed(content)))


def as_format_1(content, identity):
    return (json.dumps({"format": 1, **content, "identity": identity}, indent=2) + "\n").encode()


def test_a_store_of_format_1_is_read_and_keeps_its_fingerprint(content, tmp_path, refused):
    old = as_format_1(content, content["identity"])
    (tmp_path / "manifest.json").write_bytes(old)
    manifest, fingerprint = read_manifest(tmp_path)
    assert (manifest["format"], fingerprint) == (1, hashlib.sha256(old).hexdigest())
    del content["files"]["train_00001.bin"]
    assert "files lacks train_00001.bin" in refused(as_format_1(content, content["identity"]))


def test_a_manifest_of_format_2_does_not_pass_as_one_of_format_1(store, refused):
    sound = (store.root / "manifest.json").read_bytes()
    assert "was altered" in refused(sound.replace(b'"format": 2', b'"format": 1'))


def test_a_finished_store_of_format_1_is_not_prepared_again(corpus, content, tmp_path):
    """What its recipe and text were called then was said with the number of the format."""
    store = prepare(corpus / "recipe.yaml", tmp_path / "store")
    provenance = [{key: value for key, value in content["sources"][0].items() if key != "kind"} | {"documents": None}]
    identity = {"format": 1, "recipe": content["recipe"], "sources": provenance, "tokenizer": None}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = store.root / "manifest.json"
    path.write_bytes(as_format_1(content, digest))
    old = prepare(corpus / "recipe.yaml", tmp_path / "store")
    assert old.fingerprint == hashlib.sha256(as_format_1(content, digest)).hexdigest()
    old.verify()
    path.write_bytes(as_format_1(content, 64 * "0"))
    with pytest.raises(DataError, match="holds a store of another recipe"):
        prepare(corpus / "recipe.yaml", tmp_path / "store")
