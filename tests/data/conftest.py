import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from sinkpretrain.data.prepare import prepare

SYLLABLES = ["ka", "to", "mi", "ren", "sol", "ü", "ba", "ndu", "x", "é", "日本", "🙂"]


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct documents of 5 to 60 words, with line breaks, other scripts and the separator's own spelling."""
    random = np.random.RandomState(seed)
    texts = []
    for number in range(count):
        words = ["".join(random.choice(SYLLABLES, size=random.randint(1, 4))) for _ in range(random.randint(5, 60))]
        texts.append(
            f"{number}: " + " ".join(words) + random.choice([".", "\n", "\n\nend", " <|endoftext|> more", "  "])
        )
    return texts


@pytest.fixture(scope="session")
def texts():
    return make_texts(120)


@pytest.fixture(scope="session")
def write_jsonl():
    def write(path: Path, texts: list[str]) -> Path:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def write_recipe():
    """Write a recipe of one source, small enough to prepare in a moment; other keys replace or add to it."""

    def write(folder: Path, source: dict | None = None, **keys) -> Path:
        recipe = {
            "sources": [source or {"name": "files", "path": "texts.jsonl"}],
            "tokenizer": {"name": "train", "vocab_size": 320},
            "validation_fraction": 0.2,
            "shard_tokens": 900,
            **keys,
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, texts, write_jsonl, write_recipe):
    """A folder with texts.jsonl and recipe.yaml."""
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "texts.jsonl", texts)
    write_recipe(folder)
    return folder


@pytest.fixture(scope="session")
def store(corpus):
    return prepare(corpus / "recipe.yaml")


@pytest.fixture(scope="session")
def streams(store):
    """Each split's stream, read from the files without the code under test."""
    return {
        split: np.concatenate([np.fromfile(path, dtype="<u2") for path in sorted(store.root.glob(f"{split}_*.bin"))])
        for split in ("train", "validation")
    }


@pytest.fixture
def shared_data():
    folder = os.environ.get("SINKPRETRAIN_TEST_DATA")
    if not folder:
        pytest.skip("SINKPRETRAIN_TEST_DATA is not set: no sample of OpenWebText")
    return Path(folder) / "data"
