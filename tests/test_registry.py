"""Registries are folders: a name is a file with one public class of its kind."""

import importlib
import types
from pathlib import Path

import pytest

import sinkpretrain.attention.weights
from sinkpretrain import registry
from sinkpretrain.attention.base import AttentionWeights
from sinkpretrain.attention.weights.sigmoid import Sigmoid, SigmoidOptions
from sinkpretrain.errors import ConfigError

NEW_KIND = '''
"""Weights that are all the same."""

from dataclasses import dataclass

from sinkpretrain.attention.base import AttentionWeights
from sinkpretrain.attention.weights.softmax import Softmax


@dataclass(frozen=True, kw_only=True)
class UniformOptions:
    """One option."""

    level: float = 1.0


class _Hidden(AttentionWeights):
    """Not public."""


class Uniform(_Hidden):
    """The one public kind."""

    Options = UniformOptions
'''


@pytest.mark.parametrize("kind", registry.KINDS)
def test_names_are_files(kind):
    folder = Path(registry.__file__).parent.joinpath(*kind.split("."))
    files = sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "base"))
    assert list(registry.names(kind)) == files
    assert files


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_name_loads(kind):
    module, base_name = registry.KINDS[kind]
    base = getattr(importlib.import_module(module), base_name)
    for name in registry.names(kind):
        loaded = registry.load(kind, name)
        assert issubclass(loaded, base)
        assert loaded.__module__ == f"sinkpretrain.{kind}.{name}"


def test_unknown_name_lists_the_names_there_are():
    with pytest.raises(ConfigError, match=r"no 'sofmax'; choose one of kv_bias, .*softmax, softmax_off_by_one"):
        registry.load("attention.weights", "sofmax")
    with pytest.raises(ConfigError, match="no 'base'"):
        registry.load("metrics", "base")


def test_a_new_kind_is_one_new_file(tmp_path, monkeypatch):
    folder = tmp_path / "attention" / "weights"
    folder.mkdir(parents=True)
    (folder / "uniform.py").write_text(NEW_KIND)
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    monkeypatch.setattr(sinkpretrain.attention.weights, "__path__", [str(folder)])
    # Uncached, so that neither the temporary name is kept nor the real ones are found.
    monkeypatch.setattr(registry, "names", registry.names.__wrapped__)
    monkeypatch.setattr(registry, "load", registry.load.__wrapped__)
    assert registry.names("attention.weights") == ("uniform",)
    assert registry.load("attention.weights", "uniform").__name__ == "Uniform"
    assert registry.build_options("attention.weights", "uniform", {"level": "2e1"}, "here").level == 20.0


def module_with(**classes):
    module = types.ModuleType("temporary")
    for name, bases in classes.items():
        setattr(module, name, type(name, bases, {"__module__": "temporary"}))
    return module


def test_exactly_one_public_subclass():
    one = module_with(First=(Sigmoid,), Other=(), _Hidden=(Sigmoid,))
    one.Imported = Sigmoid
    assert registry._only_public_subclass(one, AttentionWeights) is one.First
    for wrong in (module_with(), module_with(Other=()), module_with(First=(Sigmoid,), Second=(AttentionWeights,))):
        with pytest.raises(AssertionError, match="temporary must define exactly one public subclass of AttentionW"):
            registry._only_public_subclass(wrong, AttentionWeights)


def test_options():
    built = registry.build_options("attention.weights", "sigmoid", {"normalize": True}, "here")
    assert built == SigmoidOptions(bias="zero", normalize=True)
    assert registry.build_options("attention.weights", "softmax", {}, "here") is None


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("sigmoid", {"biass": "zero"}, "here.biass: 'sigmoid' has no such option; it has bias, normalize"),
        ("sigmoid", {"bias": "half"}, "here.bias: 'half' is not one of zero, minus_log_context"),
        ("sigmoid", {"normalize": "yes"}, "here.normalize: 'yes' is not true or false"),
        ("softmax", {"bias": "zero"}, "here.bias: 'softmax' has no such option; it has none"),
    ],
)
def test_wrong_options_are_refused(name, given, message):
    with pytest.raises(ConfigError) as caught:
        registry.build_options("attention.weights", name, given, "here")
    assert str(caught.value) == message
