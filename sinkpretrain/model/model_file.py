"""One Python file with the attention kinds of a model and what fits them into transformers, from their source text."""

import ast
import importlib
import inspect
from pathlib import Path

from sinkpretrain import registry
from sinkpretrain.config import AttentionConfig
from sinkpretrain.errors import ConfigError

BASE = "sinkpretrain.attention.base"
TEMPLATE = Path(__file__).with_name("modeling_sinkpretrain.py")
HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Written by sinkpretrain's export: the attention code below is the source text that the model was trained with.
"""


def model_file(attention: AttentionConfig) -> str:
    """The text of a model file that runs without sinkpretrain.

    Raises:
        ConfigError: a kind's file imports something of sinkpretrain that is not in the file, or names a thing as
            another file does.
    """
    in_use = [("weights", attention.weights["name"]), *(("output", entry["name"]) for entry in attention.output)]
    kinds = list(dict.fromkeys(in_use))
    modules = [BASE, *(f"sinkpretrain.attention.{folder}.{name}" for folder, name in kinds)]
    sources = {module: inspect.getsource(importlib.import_module(module)) for module in modules}
    sources[TEMPLATE.stem] = TEMPLATE.read_text(encoding="utf-8")
    _refuse_same_names(sources)
    parts = [_without_own_imports(name, text, set(modules)) for name, text in sources.items()]
    classes = {f"{folder}/{name}": registry.load(f"attention.{folder}", name).__name__ for folder, name in kinds}
    filled = "".join(f'KINDS["{kind}"] = {made}\n' for kind, made in classes.items())
    return "\n\n".join([HEADER, *parts, filled])


def _without_own_imports(name: str, text: str, inlined: set[str]) -> str:
    """The text without its imports of names that stand above it in the file."""
    lines = text.splitlines(keepends=True)
    for node in reversed(ast.parse(text).body):
        if _is_own_import(node):
            is_inlined = isinstance(node, ast.ImportFrom) and node.module in inlined
            if not is_inlined or " as " in ast.unparse(node):
                raise ConfigError(
                    f"{name}: '{ast.unparse(node)}' cannot go into an exported model file, which has {BASE} and the "
                    "attention kinds in use; import names from there, without renaming them"
                )
            del lines[node.lineno - 1 : node.end_lineno]
    rest = "".join(lines)
    if late := [node for node in ast.walk(ast.parse(rest)) if _is_own_import(node)]:
        raise ConfigError(f"{name}: '{ast.unparse(late[0])}' is not at the top, so the model file cannot leave it out")
    return rest


def _is_own_import(node: ast.AST) -> bool:
    """Whether a node imports from this package, by its name or relative to it."""
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or str(node.module).split(".")[0] == "sinkpretrain"
    return isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "sinkpretrain" for alias in node.names)


def _refuse_same_names(sources: dict[str, str]) -> None:
    """In one file the later of two definitions would replace the earlier."""
    homes: dict[str, str] = {}
    for module, text in sources.items():
        for name in _defined(text):
            if name in homes:
                raise ConfigError(
                    f"{module}: defines {name}, as {homes[name]} does, and an exported model file has both; rename one"
                )
            homes[name] = module


def _defined(text: str) -> set[str]:
    """Names that a module defines at its top level, imports aside."""
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            stored = (name for name in ast.walk(node) if isinstance(name, ast.Name))
            found |= {name.id for name in stored if isinstance(name.ctx, ast.Store)}
    return found
