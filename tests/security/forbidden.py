"""What no source of this project may hold: ways by which a file that is read, or a name that is given, becomes code."""

import ast
from collections.abc import Iterator

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
SHELLS = {
    "os": {"system", "popen"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "asyncio": {"create_subprocess_shell"},
}
YAML = {"safe_load", "safe_load_all", "safe_dump", "safe_dump_all", "SafeLoader", "CSafeLoader", "YAMLError"}
READERS = {"read_pickle", "to_pickle", "add_safe_globals"}
# Arguments by the only value that they may be given; Ellipsis: they may not be given at all.
ARGUMENTS = dict([("allow_pickle", ...), ("shell", ...), ("trust_remote_code", False), ("weights_only", True)])


def forbidden(source: str) -> list[tuple[int, str]]:
    """The lines of a Python source that hold such a thing, each with its name."""
    tree = ast.parse(source)
    return sorted({(node.lineno, name) for node in ast.walk(tree) for name in _names(node)})


def _names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (name.name for name in names if name.name.split(".")[0] in MODULES)
        case ast.ImportFrom(module=str(module), names=names):
            yield from _imported(module, [name.name for name in names])
        case ast.Name(id=name, ctx=ast.Load()) if name in BUILTINS:
            yield name
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            yield from _attribute(module, name)
        case ast.Attribute(attr=name) if name in READERS:
            yield name
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
            if "weights_only" not in [keyword.arg for keyword in keywords]:
                yield "torch.load without weights_only"
        case ast.keyword(arg=str(name), value=value) if name in ARGUMENTS:
            yield from _argument(name, value)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                is_argument = isinstance(key, ast.Constant) and key.value in ARGUMENTS
                if is_argument and not isinstance(value, ast.Tuple):  # which none of them can be
                    yield from _argument(key.value, value)


def _imported(module: str, names: list[str]) -> Iterator[str]:
    """Names of a `from module import`, which would be hidden from the other rules."""
    if module.split(".")[0] in MODULES:
        yield module
    for name in names:
        yield from _attribute(module, name)
        if module == "torch" and name == "load":
            yield "torch.load under another name"
        if name in READERS:
            yield name


def _attribute(module: str, name: str) -> Iterator[str]:
    if name in SHELLS.get(module, ()) or (module == "yaml" and name not in YAML):
        yield f"{module}.{name}"
    if (module == "builtins" and name in BUILTINS) or (module != "self" and name in READERS):
        yield f"{module}.{name}"


def _argument(name: str, value: ast.expr) -> Iterator[str]:
    if not (isinstance(value, ast.Constant) and value.value is ARGUMENTS[name]) or ARGUMENTS[name] is ...:
        yield name
