"""Malicious and vulnerable releases are told from the metadata of what is installed, before anything is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sinkpretrain.cli import run
from sinkpretrain.training import advisories

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(monkeypatch):
    """Pretend that a release is installed."""
    real = advisories.version_of

    def pretend(package, version):
        monkeypatch.setattr(advisories, "version_of", lambda name: version if name == package else real(name))

    return pretend


@pytest.fixture
def planted(tmp_path):
    """A lightning whose import leaves a marker, before the real one on the path, as a fresh process would have it."""

    def plant(package, version):
        site, marker = tmp_path / "site", tmp_path / "marker"
        for module in ("lightning", "pytorch_lightning"):
            (site / module).mkdir(parents=True, exist_ok=True)
            (site / module / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
        about = site / f"{package.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        return {**os.environ, "PYTHONPATH": str(site)}, marker

    return plant


def spoken(environment, *arguments):
    command = [sys.executable, "-m", "sinkpretrain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)


@pytest.mark.parametrize(
    ("package", "version", "kind", "says"),
    [
        ("lightning", "2.6.2", "malicious", "replace every secret"),
        ("lightning", "2.6.3", "malicious", "uninstall it without importing it"),
        ("pytorch-lightning", "2.6.2", "malicious", "steals keys, tokens and passwords"),
        ("pytorch-lightning", "2.6.3+local", "malicious", "GHSA-w37p-236h-pfx3"),
        ("lightning", "2.6.1", "vulnerable", "CVE-2026-58659"),
        ("lightning", "2.6.5", "vulnerable", "runs code that a checkpoint names"),
        ("pytorch-lightning", "2.6.4", "vulnerable", "install again with scripts/install"),
        ("lightning", "2.6.6rc1", "vulnerable", "CVE-2026-58659"),
        ("torch", "2.5.1+cpu", "vulnerable", "CVE-2025-32434"),
        ("torch", "2.9.1", "vulnerable", "CVE-2026-24747"),
        ("torchvision", "0.29.1", "incompatible", "breaks the import of lightning"),
    ],
)
def test_doctor_says_what_a_release_is_and_what_to_do(installed, capsys, package, version, kind, says):
    installed(package, version)
    assert run(["doctor", "--json"]) == 1
    said = capsys.readouterr()
    (found,) = json.loads(said.out)["bad_packages"].values()
    assert (found["package"], found["version"], found["kind"]) == (package, version, kind)
    assert f"sinkpretrain: {package} {version} is {kind}: " in said.err
    assert says in said.err


@pytest.mark.parametrize(
    ("package", "version"),
    [("lightning", "2.6.6"), ("lightning", "2.7.0"), ("torch", "2.10.0"), ("torch", "2.13.0+cpu")],
)
def test_good_releases_are_not_named(installed, package, version):
    installed(package, version)
    assert advisories.findings() == []


@pytest.mark.parametrize(("package", "version"), [("lightning", "2.6.3"), ("pytorch-lightning", "2.6.2")])
def test_no_verb_imports_a_malicious_release(planted, tmp_path, package, version):
    environment, marker = planted(package, version)
    for arguments in (
        ["train", "--out", tmp_path / "run"],
        ["sweep", "configs/experiments/quickstart.yaml"],
        ["doctor"],
    ):
        ended = spoken(environment, *arguments)
        assert ended.returncode == 1
        assert f"sinkpretrain: {package} {version} is malicious" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not marker.exists()
    subprocess.run([sys.executable, "-c", "import lightning"], env=environment, check=True)
    assert marker.exists(), "the planted release would have left it"
