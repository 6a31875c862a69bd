"""No file of the project holds a way from data to code; each exemption stands here with its reason."""

import re
import subprocess
from pathlib import Path

import pytest
from forbidden import forbidden

ROOT = Path(__file__).parents[2]
# (file, what it may hold): why nothing of a stranger reaches it.
EXEMPT = {
    ("sinkpretrain/model/read_export.py", "trust_remote_code"): "reads the folder that `export` has just written",
    ("tests/model/test_export.py", "compile"): "compiles model files made of our own sources, and runs none",
    ("tests/test_readme.py", "compile"): "runs the README's own example",
    ("tests/test_readme.py", "exec"): "runs the README's own example",
    ("tests/data/test_store.py", "pickle"): "a token store goes to data workers as a pickle of its few settings",
    ("tests/comparison/test_slurm_submission.py", "pickle"): "reads the task that submitit has just written",
    ("tests/security/evil.py", "pickle"): "makes the malicious files of the canaries",
    ("tests/security/test_pickles.py", "pickle"): "shows that they would have run",
    ("tests/security/test_pickles.py", "torch.load without weights_only"): "shows that they would have run",
}
HEREDOC = re.compile(r"<<'PROGRAM'\n(.*?)\nPROGRAM\n", re.DOTALL)

SNIPPETS = {
    "pickle": ("import pickle", "from pickle import loads", "import json, pickle as p"),
    "dill": ("import dill",),
    "cloudpickle": ("from cloudpickle import dumps",),
    "joblib": ("import joblib.numpy_pickle",),
    "marshal": ("import marshal",),
    "shelve": ("import shelve",),
    "allow_pickle": (
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=False)",
        "f(**{'allow_pickle': x})",
    ),
    "yaml.": (
        "yaml.load(text)",
        "yaml.load(text, Loader=Safe)",
        "from yaml import load",
        "yaml.UnsafeLoader",
    ),
    "yaml.full_load": ("yaml.full_load(text)",),
    "yaml.unsafe_load": ("yaml.unsafe_load(text)",),
    "eval": ("eval(text)", "f = eval", "import builtins\nbuiltins.eval('1')"),
    "exec": ("exec(text)", "from builtins import exec"),
    "compile": ("compile(text, 'x', 'exec')",),
    "__import__": ("__import__(name)",),
    "shell": ("run(command, shell=True)", "run(command, shell=shell)", "run(command, **{'shell': True})"),
    "os.": ("os.system(command)", "os.popen(command)", "from os import system"),
    "subprocess.getoutput": ("subprocess.getoutput(command)",),
    "trust_remote_code": ("f(trust_remote_code=True)", "f(trust_remote_code=yes)", "own = {'trust_remote_code': True}"),
    "torch.load": ("torch.load(path)", "from torch import load", "torch.load(path, 'cpu')"),
    "weights_only": ("torch.load(path, weights_only=False)", "torch.load(path, weights_only=safe)"),
    "read_pickle": ("pandas.read_pickle(path)", "from pandas import read_pickle"),
    "add_safe_globals": ("torch.serialization.add_safe_globals([print])",),
}
HARMLESS = (
    "model.eval()",
    "re.compile(pattern)",
    "model.compile()",
    "torch.load(path, map_location='cpu', weights_only=True)",
    "np.load(path)",
    "yaml.safe_load(text)",
    "yaml.safe_dump({})",
    "f(trust_remote_code=False)",
    "class Loader(yaml.SafeLoader): pass",
    "subprocess.run([a, b], check=True)",
    "def evaluate(): ...",
)


def sources():
    """Path and text of every Python source: modules, tests, scripts, and programs inside of scripts."""
    for folder in ("sinkpretrain", "tests"):
        yield from ((path, path.read_text()) for path in sorted((ROOT / folder).rglob("*.py")))
    for path in sorted((ROOT / "scripts").iterdir()):
        text = path.read_text()
        programs = [text] if "python" in text.partition("\n")[0] else HEREDOC.findall(text)
        yield from ((path, program) for program in programs)


@pytest.mark.parametrize(("name", "snippet"), [(name, one) for name, some in SNIPPETS.items() for one in some])
def test_the_rules_catch(name, snippet):
    assert any(name in found for _, found in forbidden(f"x = 1\n{snippet}\n"))
    assert {line for line, _ in forbidden(f"x = 1\n{snippet}\n")} == {1 + len(snippet.splitlines())}


@pytest.mark.parametrize("snippet", HARMLESS)
def test_the_rules_leave_alone(snippet):
    assert forbidden(snippet) == []


def test_no_source_turns_data_into_code():
    found = {(str(path.relative_to(ROOT)), name): line for path, text in sources() for line, name in forbidden(text)}
    more = [f"{file}:{line}: {name}" for (file, name), line in found.items() if (file, name) not in EXEMPT]
    assert not more
    assert set(EXEMPT) <= set(found), "exempt from nothing: take it off the list"


def test_programs_in_shell_scripts_are_among_the_sources():
    names = {path.name for path, _ in sources() if path.parent.name == "scripts"}
    assert {"fetch_smollm2", "pin_hashes", "benchmark_act"} <= names


def test_shell_scripts_run_no_text():
    for path in (*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"):
        shell = HEREDOC.sub("", path.read_text())
        if "bash" in shell.partition("\n")[0]:
            assert not re.search(r"(^|;|&&|\|\|)\s*eval\s", shell, re.MULTILINE), path


def test_yaml_files_hold_no_tags_of_python():
    listed = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(listed) > 40
    for name in listed:
        assert "!!python" not in (ROOT / name).read_text(), name


def test_the_script_of_the_page_runs_no_text():
    script = (ROOT / "sinkpretrain/report/curves.js").read_text()
    assert not re.search(r"\beval\(|\bFunction\(|document\.write|insertAdjacentHTML|outerHTML", script)
