"""Text named on the command line: which documents, in which order, cut into the windows a token store gives."""

import hashlib
import json
import pydoc_data.topics

import numpy as np
import pytest

from sinkpretrain.data import text as text_module
from sinkpretrain.data.prepare import encode
from sinkpretrain.data.text import read_text
from sinkpretrain.data.windows import Windows
from sinkpretrain.errors import ConfigError, DataError

DOCUMENTS = ["One document about ifs.", "Another, of whiles and loops.", "A third one.", "One document about ifs."]


@pytest.fixture
def tokenizer(prose_store):
    return prose_store.tokenizer()


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "some [text].jsonl"  # brackets are a pattern to glob
    path.write_text("\n".join(json.dumps({"text": document}) for document in DOCUMENTS) + "\n")
    return path


def test_documents_stand_once_in_the_order_of_their_hashes_between_separators(jsonl, tokenizer):
    found = read_text(jsonl, tokenizer, separator=7)
    ordered = sorted(set(DOCUMENTS), key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    expected = [7]
    for document in ordered:
        expected += [*encode(tokenizer, [document])[0].tolist(), 7]
    assert found.tokens("validation").tolist() == expected
    assert found.root == jsonl


def test_a_text_file_is_one_document_and_a_recipe_is_its_sources(tmp_path, tokenizer, prose_recipe, prose_store):
    (tmp_path / "one.txt").write_text("One document\n\nwith a gap.")
    assert np.sum(read_text(tmp_path / "one.txt", tokenizer, separator=0).stream == 0) == 2
    recipe = read_text(prose_recipe, tokenizer, prose_store.separator)
    documents = set(pydoc_data.topics.topics.values())
    assert np.sum(recipe.stream == prose_store.separator) == len(documents) + 1


def test_windows_are_cut_as_from_a_token_store(jsonl, tokenizer):
    found = read_text(jsonl, tokenizer, separator=7)
    for bos in ("none", "document", "window"):
        windows = Windows(store=found, split="validation", context_length=4, bos=bos)
        batch = windows.batch(windows.fixed(2))
        assert batch.tokens_BT.shape == (2, 4)
        assert bool((batch.tokens_BT[:, 0] == 7).all()) == (bos == "window")
        assert batch.tokens_BT[0, 1:].tolist() == batch.targets_BT[0, :-1].tolist()


def test_long_text_is_cut(jsonl, tokenizer, monkeypatch):
    monkeypatch.setattr(text_module, "MOST_TOKENS", 9)
    assert len(read_text(jsonl, tokenizer, separator=7).stream) == 9


def test_another_text_has_another_fingerprint(jsonl, tokenizer):
    one, other = (read_text(jsonl, tokenizer, separator=separator).fingerprint for separator in (7, 8))
    assert one == read_text(jsonl, tokenizer, separator=7).fingerprint != other


def test_what_is_no_text_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"there is no such text; give a \.txt, \.jsonl or \.parquet file, or a recipe"):
        read_text(tmp_path / "absent.txt", tokenizer, separator=0)
    (tmp_path / "picture.png").write_text("x")
    with pytest.raises(DataError, match="of a kind that cannot be read"):
        read_text(tmp_path / "picture.png", tokenizer, separator=0)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no text"):
        read_text(tmp_path / "empty.jsonl", tokenizer, separator=0)
    (tmp_path / "recipe.yaml").write_text("source: []")
    with pytest.raises(ConfigError, match="source: unknown key"):
        read_text(tmp_path / "recipe.yaml", tokenizer, separator=0)
