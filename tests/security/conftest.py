"""What a stranger could hand over, and a check after every test that none of it was run."""

import json
import shutil

import pytest

from sinkpretrain.cli import run as command
from sinkpretrain.runs import Run


@pytest.fixture
def marker(tmp_path):
    """The folder that appears where a malicious file is run; it must not be there afterwards."""
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists(), "a file's code was run"


@pytest.fixture
def refused(marker, capsys):
    """The exit code and the last line of a command that must fail with one sentence and no traceback."""

    def check(*arguments, code):
        assert command([str(argument) for argument in arguments]) == code
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("sinkpretrain: ")
        assert not marker.exists()
        return said

    return check


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of a run, to be tampered with."""
    return Run(shutil.copytree(small_run.root, tmp_path / "stranger" / "softmax-s0"))


@pytest.fixture(scope="session")
def exported(small_run, tmp_path_factory):
    """A Hugging Face folder."""
    from sinkpretrain.model.exporting import export_hf

    return export_hf(small_run, tmp_path_factory.mktemp("exported") / "theirs")


@pytest.fixture
def theirs(exported, tmp_path):
    """A copy of it, to be tampered with."""
    return shutil.copytree(exported, tmp_path / "theirs")


@pytest.fixture
def rewrite():
    """Change keys of a JSON file; a function as a value is called with the old one."""

    def change(path, **changes):
        content = json.loads(path.read_text())
        for key, value in changes.items():
            content[key] = value(content[key]) if callable(value) else value
        path.write_text(json.dumps(content))

    return change
