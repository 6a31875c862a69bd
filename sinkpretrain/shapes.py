"""What a JSON record has to look like, before anything in it is used: a record may come from a stranger.

A shape is a test of this module for a single value, `[shape]` for a list, `{key: shape}` for a mapping that has these
keys and may have more, `{plain: shape}` with a test in place of the key for a mapping with such keys alone, or a tuple
of shapes of which one is enough. A key that ends in `?` may be missing.
"""

import math
from typing import Any

Shape = Any


def text(value: Any) -> bool:
    """text"""
    return isinstance(value, str)


def plain(value: Any) -> bool:
    """a plain name, without / and control characters, and not . or .."""
    return text(value) and value not in ("", ".", "..") and "/" not in value and value.isprintable()


def count(value: Any) -> bool:
    """a whole number, 0 or more"""
    return type(value) is int and 0 <= value < 2**63


def number(value: Any) -> bool:
    """a finite number"""
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def yes_or_no(value: Any) -> bool:
    """true or false"""
    return isinstance(value, bool)


def nothing(value: Any) -> bool:
    """null"""
    return value is None


def head(value: Any) -> bool:
    """a pair of a layer and a head"""
    return isinstance(value, list) and len(value) == 2 and all(map(count, value))


def anything(value: Any) -> bool:
    """anything"""
    return True


def misfit(value: Any, shape: Shape, where: str = "") -> str | None:
    """What is wrong with a value, with the key path of the first thing that is; None where nothing is."""
    if isinstance(shape, tuple):
        of_each = [misfit(value, one, where) for one in shape]
        return None if None in of_each else of_each[-1]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _said(where, value, "a list")
        entries = (misfit(entry, shape[0], f"{where}[{place}]") for place, entry in enumerate(value))
        return next((found for found in entries if found), None)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _said(where, value, "a mapping")
        return next((found for key, of in shape.items() if (found := _of_key(value, key, of, where))), None)
    return None if shape(value) else _said(where, value, shape.__doc__)


def _of_key(value: dict[str, Any], key: Any, shape: Shape, where: str) -> str | None:
    """What is wrong with one key of a mapping, or with each where the key is a test."""
    if callable(key):
        found = (
            misfit(one, key, f"{where}, a key") or misfit(of, shape, _path(where, one)) for one, of in value.items()
        )
        return next((one for one in found if one), None)
    name = key.removesuffix("?")
    if name not in value:
        return None if key.endswith("?") else f"{_path(where, name)} is missing"
    return misfit(value[name], shape, _path(where, name))


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _said(where: str, value: Any, allowed: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{where or 'it'} is {shown}, not {allowed}"
