from pathlib import Path

import pytest

from sinkpretrain.data.recipe import read_recipe
from sinkpretrain.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "data").glob("*.yaml"))
HUB = {"name": "hub", "path": "someone/text", "revision": "0" * 40}


def test_there_are_shipped_recipes():
    assert {"demo", "openwebtext"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_can_be_read_and_state_their_licence(path):
    recipe = read_recipe(path)
    assert all(source.license != "not stated" for source in recipe.built_sources())


def test_openwebtext_is_the_whole_pinned_set():
    recipe = read_recipe(next(path for path in SHIPPED if path.stem == "openwebtext"))
    (source,) = recipe.built_sources()
    assert source.documents == 8_013_769
    assert recipe.tokenizer == {"name": "gpt2"}


@pytest.mark.parametrize(
    ("source", "keys", "message"),
    [
        (None, {"vocab": 3}, "vocab: unknown key"),
        ({"name": "ftp"}, {}, r"sources\[0\]: name 'ftp' is not one of hub, files, package"),
        ({"path": "x"}, {}, r"sources\[0\]: name 'None' is not one of"),
        ({"name": "files", "pth": "x"}, {}, r"sources\[0\].pth: unknown key. Did you mean"),
        ({"name": "files"}, {}, r"sources\[0\].path: is missing"),
        ({**HUB, "revision": "main"}, {}, "'main' can move; give a commit"),
        ({**HUB, "documents": 5, "limit": 3}, {}, "give one of them"),
        ({**HUB, "limit": 0}, {}, "sources.limit: 0 is out of range"),
        ({"name": "files", "path": "x.txt", "text_field": 3}, {}, "text_field: 3 is not text"),
        (None, {"sources": []}, "sources: is empty"),
        (None, {"validation_fraction": 0}, "validation_fraction: 0.0 is out of range"),
        (None, {"shard_tokens": 0}, "shard_tokens: 0 is out of range"),
        (None, {"tokenizer": {"name": "gpt2", "vocab_size": 9}}, "tokenizer.vocab_size: unknown key"),
        (None, {"tokenizer": {"name": "train", "vocab_size": 256}}, "tokenizer.vocab_size: 256 is out of range"),
        (None, {"tokenizer": {"name": "train", "megabytes": 0}}, "tokenizer.megabytes: 0.0 is out of range"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, write_recipe, source, keys, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write_recipe(tmp_path, source, **keys))


def test_a_missing_key_of_the_recipe_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("sources: [{name: files, path: x}]\nvalidation_fraction: 0.1\n")
    with pytest.raises(ConfigError, match="^tokenizer: is missing"):
        read_recipe(path)
