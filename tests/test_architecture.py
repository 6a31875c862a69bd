"""The shape of the package: who may import whom, what stays free of torch, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sinkpretrain

PACKAGE = Path(sinkpretrain.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports only from rows above its own, or from its own folder.
ROWS = (
    ("errors",),
    ("files",),
    ("progress",),
    ("shapes",),
    ("mappings",),
    ("registry",),
    ("model_config",),
    ("config",),
    ("records",),
    ("results",),
    ("runs",),
    ("checkpoints",),
    ("taps",),
    ("data",),
    ("attention",),
    ("model",),
    ("metrics",),
    ("interventions",),
    ("probing",),
    ("subject",),
    ("intervening",),
    ("calibration",),
    ("evaluation",),
    ("training",),
    ("comparison",),
    ("figures",),
    ("report",),
    ("cli", "__main__", "__init__"),
)
ROW = {unit: row for row, units in enumerate(ROWS) for unit in units}

WITHOUT_TORCH = (
    "errors.py",
    "files.py",
    "progress.py",
    "shapes.py",
    "mappings.py",
    "registry.py",
    "config.py",
    "model_config.py",
    "records.py",
    "results.py",
    "runs.py",
    "figures",
    "report",
    "comparison/act_records.py",
    "comparison/act_soundness.py",
    "comparison/beginnings.py",
    "comparison/comparability.py",
    "comparison/emergence.py",
    "comparison/experiment.py",
    "comparison/members.py",
    "comparison/outcomes_of_runs.py",
    "comparison/paired_seeds.py",
    "comparison/pairs.py",
    "comparison/persistence",
    "comparison/slurm",
    "comparison/soundness.py",
    "comparison/tuning.py",
    "comparison/verdict",
    "evaluation/statistics.py",
    "cli",
    "__init__.py",
)
HEAVY = {"torch", "lightning", "transformers", "datasets", "lm_eval", "wandb"}
MAX_LINES = 300
VAGUE = {"utils.py", "helpers.py", "common.py", "misc.py", "util.py", "helper.py"}


def imported(path, tree):
    """Each module that a file imports, as (absolute dotted name, whether at module level)."""
    package = ("sinkpretrain", *Path(path).parent.parts)
    late = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (above, node.module) if part)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in late


def unit_of(path):
    """The row entry that a file of the package belongs to: its folder, or its own name."""
    return Path(path).parts[0].removesuffix(".py")


def layer_violations(path, source):
    """Imports of a file of the package (its path there, its text) that the order of rows forbids."""
    own = unit_of(path)
    if own not in ROW:
        return [f"{path}: '{own}' has no row"]
    found = []
    for name, _ in imported(path, ast.parse(source)):
        package, _, inside = name.partition(".")
        unit = inside.partition(".")[0] or "__init__"
        allowed = unit in ROW and ROW[unit] <= ROW[own]
        if package == "sinkpretrain" and not allowed:
            found.append(f"{path}: imports {name}")
    return found


def torch_violations(path, source):
    """Imports of heavy packages at module level, in a file that must be quick to import."""
    return [
        f"{path}: imports {name}"
        for name, at_module_level in imported(path, ast.parse(source))
        if at_module_level and name.split(".")[0] in HEAVY
    ]


def relative(path):
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_come_from_above(path):
    assert not layer_violations(relative(path), path.read_text())


@pytest.mark.parametrize(
    ("path", "source", "caught"),
    [
        ("config.py", "import torch\nfrom sinkpretrain import registry", False),
        (
            "metrics/sink_rate.py",
            "from sinkpretrain.metrics.base import Metric\nfrom sinkpretrain.taps import Tap",
            False,
        ),
        ("registry.py", "from sinkpretrain.mappings import build", False),
        ("registry.py", "def f():\n    from sinkpretrain.config import Config", True),
        ("__main__.py", "from sinkpretrain.cli import main", False),
        ("attention/output/gate.py", "from ..base import OutputTransform", False),
        ("attention/base.py", "from sinkpretrain.model.llama import Llama", True),
        ("attention/base.py", "from sinkpretrain import model", True),
        ("attention/base.py", "import sinkpretrain.model.llama", True),
        ("attention/base.py", "from ..model import llama", True),
        ("attention/output/gate.py", "from ...model.llama import Llama", True),
        ("attention/base.py", "def f():\n    from sinkpretrain.training.train import train", True),
        ("attention/base.py", "if TYPE_CHECKING:\n    from sinkpretrain.model.llama import Llama", True),
        ("runs.py", "def f():\n    from sinkpretrain.checkpoints import find", True),
        ("errors.py", "from sinkpretrain.cli import main", True),
        ("errors.py", "from sinkpretrain import Llama", True),
        ("metrics/base.py", "import sinkpretrain as sp", True),
        ("shortcuts.py", "x = 1", True),
        ("cli.py", "from sinkpretrain.shortcuts import x", True),
    ],
)
def test_a_planted_violation_is_caught(path, source, caught):
    assert bool(layer_violations(path, source)) == caught


@pytest.mark.parametrize("path", [path for path in FILES if relative(path).startswith(WITHOUT_TORCH)], ids=relative)
def test_quick_files_name_nothing_heavy(path):
    assert not torch_violations(relative(path), path.read_text())


def test_a_planted_heavy_import_is_caught():
    for source in ("import torch", "import torch.nn as nn", "from torch import nn", "if x:\n    import lightning"):
        assert torch_violations("config.py", source)
    assert not torch_violations("config.py", "def f():\n    import torch")


def loaded_after(*modules):
    """Top-level names in `sys.modules` of a fresh process that imported these."""
    program = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in finished.stdout.split()}


def test_importing_the_package_costs_nothing():
    assert not loaded_after("sinkpretrain") & (HEAVY | {"matplotlib", "numpy", "yaml", "scipy"})


def test_quick_modules_load_nothing_heavy():
    """Not through the modules that they import either."""
    quick = [
        ".".join(("sinkpretrain", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in FILES
        if relative(path).startswith(WITHOUT_TORCH)
    ]
    assert not loaded_after(*quick) & HEAVY


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_are_short_and_named_after_what_they_hold(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.name not in VAGUE
