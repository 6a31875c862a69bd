"""The quickstart, as a stranger runs it, on fewer tokens."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sinkpretrain.runs import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """What git would clone, with this environment in place of a fresh one."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "scripts" / "install").write_text("#!/bin/sh\nexit 0\n")
    command = tmp_path / ".venv" / "bin" / "sinkpretrain"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" -m sinkpretrain "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.slow
@pytest.mark.network
def test_quickstart_from_text_to_page_and_again_at_once(checkout):
    command = ["scripts/quickstart", "--tokens", "100_000", "--validation.windows", "16"]
    first = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=1200)
    assert first.returncode == 0, first.stderr
    paths = [checkout / line for line in first.stdout.splitlines() if line.startswith("runs/") and ":" not in line]
    assert {path.suffix for path in paths} == {".png", ".svg", ".html"}
    assert all(path.stat().st_size > 1000 for path in paths)
    manifest = json.loads((checkout / "data/demo/manifest.json").read_text())
    for arm in ("softmax", "sigmoid", "head_rmsnorm"):
        run = Run(checkout / "runs/quickstart" / f"{arm}-s0")
        assert run.status()["state"] == "done"
        assert run.series("val/loss")[1][-1] < manifest["splits"]["validation"]["unigram_entropy_nats"] + 0.5
    started = time.monotonic()
    again = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0
    assert [line for line in again.stdout.splitlines() if "validation loss" in line] == [
        line for line in first.stdout.splitlines() if "validation loss" in line
    ]
    assert time.monotonic() - started < 90
