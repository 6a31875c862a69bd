"""An interrupted preparation goes on where it stopped, to the same bytes, however it was interrupted."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sinkpretrain.data import prepare as module
from sinkpretrain.data import reader
from sinkpretrain.data.prepare import prepare
from sinkpretrain.data.shards import SplitWriter
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import DataError

SMALL_BATCH = 1500  # characters: many batches, so that there is something to resume
COMMIT = 4000  # bytes

KILLED = """
import os, signal, sys
from sinkpretrain.data import prepare as module
from sinkpretrain.data.shards import SplitWriter
module.BATCH = int(sys.argv[3])
append, left = SplitWriter.append, int(sys.argv[5])
def append_and_die(self, *args):
    global left
    append(self, *args)
    left -= 1
    if not left:
        self.flush()  # what was written since the last commit may well have reached the disk
        os.kill(os.getpid(), signal.SIGKILL)
SplitWriter.append = append_and_die
module.prepare(sys.argv[1], sys.argv[2], commit_bytes=int(sys.argv[4]))
"""


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name != ".lock"}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH", SMALL_BATCH)


class Unplugged(Exception):
    pass


def unplug_after(monkeypatch, documents):
    """Make reading fail once, after some documents of the writing pass."""
    original = reader.Reader._documents
    left = [documents]

    def failing(self, number):
        for text in original(self, number):
            yield text
            left[0] -= 1
            if left[0] == 0:
                raise Unplugged

    monkeypatch.setattr(reader.Reader, "_documents", failing)


def test_a_stream_that_fails_again_and_again_gives_the_same_store(corpus, store, tmp_path, monkeypatch):
    root = tmp_path / "store"
    (root).mkdir()
    attempts = 0
    while not (root / "manifest.json").exists():
        assert attempts < 20
        with monkeypatch.context() as patch:
            # The first attempt spends its documents on training the tokenizer; later ones read on from a commit.
            unplug_after(patch, 150 if attempts == 0 else 33)
            try:
                prepare(corpus / "recipe.yaml", root, commit_bytes=COMMIT)
            except Unplugged:
                assert not (root / "manifest.json").exists()
                with pytest.raises(DataError, match="unfinished; run `sinkpretrain prepare` again"):
                    TokenStore.open(root)
        attempts += 1
    assert attempts > 3
    assert contents(root) == contents(store.root)


def test_a_killed_process_loses_nothing_that_matters(corpus, store, tmp_path):
    root = tmp_path / "store"
    for documents in (1, 70):  # in the first batch, and in the middle of a later shard
        arguments = [corpus / "recipe.yaml", root, SMALL_BATCH, COMMIT, documents]
        done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    appended = []
    original = SplitWriter.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitWriter, "append", lambda self, *args: (appended.append(1), original(self, *args)))
        prepare(corpus / "recipe.yaml", root, commit_bytes=COMMIT)
    assert 0 < len(appended) < 80  # 120 documents, less what the commits kept
    assert contents(root) == contents(store.root)
    TokenStore.open(root).verify()


def test_an_unfinished_store_is_not_continued_with_another_recipe(tmp_path, texts, write_jsonl, write_recipe):
    write_jsonl(tmp_path / "texts.jsonl", texts[:40])
    recipe = write_recipe(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        unplug_after(patch, 60)
        with pytest.raises(Unplugged):
            prepare(recipe, tmp_path / "store", commit_bytes=COMMIT)
    before = contents(tmp_path / "store")
    with pytest.raises(DataError, match="holds an unfinished store of another recipe"):
        prepare(write_recipe(tmp_path, shard_tokens=901), tmp_path / "store")
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("progress.json", lambda old: old.replace(b'"empty": 0', b'"empty": 1'), "progress.json: was altered"),
        ("progress.json", lambda old: old[:-20], "progress.json: cannot be read"),
        ("progress.json", lambda old: b"", "progress.json: cannot be read"),
        ("train_00000.bin", lambda old: old[:100], "train_00000.bin: has 100 bytes, .* were written before"),
    ],
)
def test_a_damaged_unfinished_store_is_not_continued(
    tmp_path, texts, write_jsonl, write_recipe, monkeypatch, name, damage, message
):
    write_jsonl(tmp_path / "texts.jsonl", texts[:60])
    recipe, root = write_recipe(tmp_path), tmp_path / "store"
    with monkeypatch.context() as patch:
        unplug_after(patch, 110)
        with pytest.raises(Unplugged):
            prepare(recipe, root, commit_bytes=COMMIT)
    sound = (root / name).read_bytes()
    assert damage(sound) != sound
    (root / name).write_bytes(damage(sound))
    with pytest.raises(DataError, match=message):
        prepare(recipe, root, commit_bytes=COMMIT)


def test_two_processes_do_not_write_one_store(corpus, tmp_path):
    with module._alone(tmp_path / "store"), pytest.raises(DataError, match="is being prepared by another process"):
        prepare(corpus / "recipe.yaml", tmp_path / "store")
