"""Registries are folders: a name is a file, and the file defines exactly one public class of its kind.

`names("attention.weights")` lists the files, `load("attention.weights", "sigmoid")` imports one and returns its
class. Nothing is registered by hand, and listing imports nothing.
"""

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sinkpretrain.errors import ConfigError
from sinkpretrain.mappings import build

# Each registry folder, with the module and the name of the base class its files subclass.
KINDS = {
    "attention.weights": ("sinkpretrain.attention.base", "AttentionWeights"),
    "attention.output": ("sinkpretrain.attention.base", "OutputTransform"),
    "metrics": ("sinkpretrain.metrics.base", "Metric"),
    "interventions": ("sinkpretrain.interventions.base", "Intervention"),
    "figures": ("sinkpretrain.figures.base", "Figure"),
}


@cache
def names(kind: str) -> tuple[str, ...]:
    """Names of one kind, sorted; `kind` is a key of `KINDS`. A folder's `base.py` is not a name."""
    folder = Path(__file__).parent.joinpath(*kind.split("."))
    assert kind in KINDS, f"unknown registry {kind}"
    return tuple(sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if module.name != "base"))


@cache
def load(kind: str, name: str) -> type[Any]:
    """The class that the file `name` of this kind defines.

    Raises:
        ConfigError: no file of that name; the message lists the names there are.
    """
    if name not in names(kind):
        raise ConfigError(f"{kind}: there is no '{name}'; choose one of {', '.join(names(kind))}")
    base_module, base_name = KINDS[kind]
    base = getattr(importlib.import_module(base_module), base_name)
    return _only_public_subclass(importlib.import_module(f"sinkpretrain.{kind}.{name}"), base)


def build_options(kind: str, name: str, given: dict[str, Any], where: str) -> Any:
    """The options of one kind, from what a configuration file gave beside its `name`.

    A class's options are the dataclass `Options` beside it in its file (a class without options has none).

    Raises:
        ConfigError: an option that this kind does not have or a value it refuses; `where` is the key path to name.
    """
    options_class = getattr(load(kind, name), "Options", None)
    allowed = [field.name for field in fields(options_class)] if is_dataclass(options_class) else []
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: '{name}' has no such option; it has {', '.join(allowed) or 'none'}")
    if options_class is None:
        return None
    return build(options_class, given, where)


def _only_public_subclass(module: ModuleType, base: type[Any]) -> type[Any]:
    """The one public class in `module` that subclasses `base` and is defined there."""
    found = [
        member
        for name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member.__module__ == module.__name__ and not name.startswith("_")
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one public subclass of {base.__name__}, has {found}"
    return found[0]
