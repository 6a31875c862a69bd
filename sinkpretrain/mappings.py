"""Mappings of keys to values: YAML files that build on each other, overrides, typed dataclasses, differences.

A YAML file holds differences. `base:` names one file or a list of files, relative to it, that are read first; later
ones win, key by key. Where a mapping has a `name` and a later one names another kind, it replaces the earlier mapping
whole, so that options of one kind never reach another. Overrides win over every file, wherever they stand on the
command line.
"""

import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from sinkpretrain.errors import ConfigError

T = TypeVar("T")


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file on top of the files its `base:` names.

    Raises:
        ConfigError: a missing file, text that is not YAML, not a mapping, or files that build on themselves.
    """
    return _read_yaml(Path(path), ())


def _read_yaml(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise ConfigError(f"{path}: builds on itself through `base:`; break the circle")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = f" (a `base:` of {above[-1]})" if above else ""
        raise ConfigError(
            f"{path}: no such file{beside}; paths in `base:` are relative to the file they stand in"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}; a configuration is a mapping of keys to values")
    return resolve_base(content, path, above)


def resolve_base(content: Mapping[str, Any], path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """`content`, which stands in the file `path`, merged onto the files its `base:` names."""
    own = dict(content)
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise ConfigError(f"{path}: base: {bases!r} is not a file name or a list of file names")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, _read_yaml(path.parent / base, (*above, path.resolve())))
    return merge(merged, own)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`, key by key; what is not a mapping on both sides is replaced."""
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _on_top(merged.get(key), value)
    return merged


def _on_top(old: Any, new: Any) -> Any:
    """One value on top of another; a mapping that names another kind shares nothing with the one below it."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    names_another_kind = "name" in old and "name" in new and old["name"] != new["name"]
    return new if names_another_kind else merge(old, new)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--a.b", "1", "--c=x"]` as the nested mapping it stands for; values are read as YAML.

    Raises:
        ConfigError: an argument that is not `--key VALUE` or `--key=VALUE`, or a value that is not YAML.
    """
    overrides: dict[str, Any] = {}
    remaining = list(arguments)
    while remaining:
        key = remaining.pop(0)
        if not key.startswith("--") or key == "--":
            raise ConfigError(
                f"'{key}' is not understood; an override is --key VALUE, as in --optimizer.learning_rate 2e-3"
            )
        key, equals, value = key.removeprefix("--").partition("=")
        if not equals:
            if not remaining or (remaining[0].startswith("--") and len(remaining[0]) > 2):
                raise ConfigError(f"--{key}: its value is missing; write --{key} VALUE")
            value = remaining.pop(0)
        try:
            nested: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--{key}: {value!r} cannot be read as YAML: {' '.join(str(error).split())}") from None
        for part in reversed(key.split(".")):
            nested = {part: nested}
        overrides = merge(overrides, nested)
    return overrides


def build(cls: type[T], given: Any, where: str) -> T:
    """An instance of the dataclass `cls` from a mapping read from YAML; `where` is the key path of the mapping.

    Raises:
        ConfigError: an unknown or missing key, a wrong type or a value out of range, with what is allowed.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: {given!r} is not a mapping of keys to values")
    hints = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    for key in given:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            hint = f" Did you mean '{prefix}{close[0]}'?" if close else ""
            raise ConfigError(f"{prefix}{key}: unknown key.{hint} Allowed here: {', '.join(hints)}")
    for field in fields(cls):  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and field.name not in given:
            raise ConfigError(f"{prefix}{field.name}: is missing; it must be given")
    return cls(**{key: _typed(value, hints[key], f"{prefix}{key}") for key, value in given.items()})


def _typed(value: Any, hint: Any, key: str) -> Any:
    """`value` as the annotated type `hint`, refused where it is another type."""
    if is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, key)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _typed(value, next(argument for argument in arguments if argument is not type(None)), key)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise ConfigError(f"{key}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{key}: {value!r} is not a list")
        return [_typed(entry, arguments[0], f"{key}[{index}]") for index, entry in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: {value!r} is not a mapping of keys to values")
        return value
    return _scalar(value, hint, key)


def _scalar(value: Any, hint: type, key: str) -> Any:
    """An int, float, bool or str. YAML 1.1 reads 1e-3 and 2e9 as text; they are numbers to the user and to us."""
    if hint in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = value if isinstance(value, int) else float(value)
            if hint is float and math.isfinite(number):
                return float(number)
            if hint is int and number == int(number):
                return int(number)
        except (ValueError, OverflowError):
            pass
    elif type(value) is hint:
        return value
    expected = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}[hint]
    raise ConfigError(f"{key}: {value!r} is not {expected}")


def to_mapping(config: Any) -> dict[str, Any]:
    """A configuration as plain YAML values; `build` gives it back."""
    return asdict(config)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ between two mappings, each with its old and new value."""
    changed: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed |= difference(before, after, f"{prefix}{key}.")
        elif before != after:
            changed[f"{prefix}{key}"] = (before, after)
    return changed
