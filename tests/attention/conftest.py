"""Every attention kind with every value of its options, found through the registry: a new file is tested unasked."""

import itertools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import nn

from sinkpretrain import registry
from sinkpretrain.attention.base import AttentionShape, AttentionWeights, OutputTransform
from sinkpretrain.model.llama import Llama, ModelConfig


def entries(kind: str) -> list[dict[str, Any]]:
    """One configuration entry for each name and each combination of its options' values."""
    found = []
    for name in registry.names(kind):
        options = getattr(registry.load(kind, name), "Options", None)
        hints = get_type_hints(options) if options else {}
        choices = []
        for field in fields(options) if options else ():
            hint = hints[field.name]
            assert hint is bool or get_origin(hint) is Literal, f"{name}.{field.name}: give its values here"
            choices.append([(field.name, value) for value in ((False, True) if hint is bool else get_args(hint))])
        found += [{"name": name, **dict(combination)} for combination in itertools.product(*choices)]
    return found


def label(entry: dict[str, Any]) -> str:
    return "-".join(str(value) for value in entry.values())


@pytest.fixture(params=entries("attention.weights"), ids=label)
def weights_entry(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(params=entries("attention.output"), ids=label)
def output_entry(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(
    params=[{"weights": entry} for entry in entries("attention.weights")]
    + [{"output": [entry]} for entry in entries("attention.output")]
    + [{"weights": {"name": "sigmoid"}, "output": [{"name": "head_rmsnorm"}, {"name": "gate"}]}],
    ids=lambda attention: "+".join(label(e) for e in [attention.get("weights", {}), *attention.get("output", [])] if e),
)
def attention(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The `attention` mapping of a model: each kind of weights, each output transform, and a chain."""
    return request.param


@pytest.fixture
def build_kind() -> Callable[..., Any]:
    """Builds one kind alone, its parameters drawn at random so that none is zero or one."""

    def build(kind: str, entry: dict[str, Any], **sizes: int) -> AttentionWeights | OutputTransform:
        options = {name: value for name, value in entry.items() if name != "name"}
        shape = AttentionShape(**{**dict(n_heads=4, kv_heads=2, head_size=6, d_model=10, context_length=32), **sizes})
        built: nn.Module = registry.load(kind, entry["name"])(
            shape, registry.build_options(kind, entry["name"], options, "test")
        )
        generator = torch.Generator().manual_seed(1)
        for parameter in built.parameters():
            nn.init.normal_(parameter, std=0.7, generator=generator)
        return built

    return build


@pytest.fixture
def build_model() -> Callable[..., Llama]:
    """Builds a small Llama with grouped heads."""

    def build(attention: dict[str, Any], **changes: Any) -> Llama:
        sizes = dict(vocab_size=23, n_layers=2, n_heads=4, n_kv_heads=2, d_model=24, d_ff=20, context_length=32)
        return Llama(ModelConfig(**{**sizes, **changes}, attention=attention))

    return build
