"""Every YAML file that is shipped: parsed, and what it describes built on the meta device."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sinkpretrain import registry
from sinkpretrain.comparison.experiment import read_experiment
from sinkpretrain.config import Config
from sinkpretrain.data.recipe import read_recipe
from sinkpretrain.mappings import build, read_yaml
from sinkpretrain.model.llama import Llama

ROOT = Path(__file__).parents[1]
FRAGMENTS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "experiments")
EXPERIMENTS = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))
RECIPES = sorted((ROOT / "data").glob("*.yaml"))


def named(path):
    return str(path.relative_to(ROOT))


def build_on_meta(config):
    with torch.device("meta"):
        return Llama(replace(config.model, vocab_size=config.model.vocab_size or 4096))


def test_there_are_files():
    assert len(FRAGMENTS) > 10
    assert len(EXPERIMENTS) >= 2
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("path", FRAGMENTS, ids=named)
def test_fragments(path):
    config = build(Config, {"tokens": 10**9, **read_yaml(path)}, "")
    assert len(build_on_meta(config).blocks) == config.model.n_layers


@pytest.mark.parametrize("path", EXPERIMENTS, ids=named)
def test_experiments(path):
    members = read_experiment(path).members
    for member in members:
        assert len(build_on_meta(member.config).blocks) == member.config.model.n_layers


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_recipes(path):
    assert read_recipe(path).sources


def test_every_attention_kind_has_a_file():
    files = [path for path in FRAGMENTS if path.parent.name == "attention"]
    shipped = [build(Config, read_yaml(path), "").model.attention for path in files]
    assert {entry.weights["name"] for entry in shipped} == set(registry.names("attention.weights"))
    assert {out["name"] for entry in shipped for out in entry.output} == set(registry.names("attention.output"))


def test_the_papers_arms_are_what_they_say():
    members = read_experiment(ROOT / "configs/experiments/sink_origin.yaml").members
    assert len(members) == 3 * 4
    by_variant = {member.config.variant: member.config.model.attention for member in members}
    assert by_variant["softmax"].weights == {"name": "softmax"}
    assert by_variant["sigmoid"].weights == {"name": "sigmoid", "bias": "zero"}
    assert by_variant["head_rmsnorm"].output == [{"name": "head_rmsnorm", "gain": "shared"}]
    assert {member.config.tokens for member in members} == {20_000_000_000}
