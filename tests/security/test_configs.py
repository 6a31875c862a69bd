"""Names and tags in configurations stay data: no module outside of a registry is imported, no object is built."""

import sys

import evil
import pytest
import yaml

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError

NAMES = [
    "../../evil",
    "os",
    "__init__",
    "base",
    "evil",
    "softmax.py",
    "",
    ".",
    "softmax/../softmax",
    "os.path",
    "a\x00b",
]


@pytest.fixture
def evil_module(tmp_path, marker, monkeypatch):
    """A module on the path that leaves the marker when it is imported."""
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    yield
    sys.modules.pop("evil", None)


@pytest.mark.parametrize("file", ["config", "recipe", "experiment", "base"])
def test_a_tag_of_python(tmp_path, marker, refused, file):
    path = tmp_path / f"{file}.yaml"
    path.write_text(f"tokens: {evil.tag(marker)}\n")
    if file == "base":
        (tmp_path / "config.yaml").write_text("base: base.yaml\n")
        said = refused("train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "run", code=2)
    elif file == "config":
        said = refused("train", "--config", path, "--out", tmp_path / "run", code=2)
    else:
        said = refused({"recipe": "prepare", "experiment": "sweep"}[file], path, code=2)
    assert f"{file}.yaml: cannot be read as YAML" in said
    assert "python/object/apply" in said


def test_a_tag_of_python_on_the_command_line(tmp_path, marker, refused):
    out = ["--out", tmp_path / "run"]
    assert "cannot be read as YAML" in refused("train", *out, "--tokens", evil.tag(marker), code=2)
    assert "cannot be read as YAML" in refused("train", *out, f"--model.n_layers={evil.tag(marker)}", code=2)


@pytest.mark.parametrize("verb", ["probe", "report", "export", "plot"])
def test_a_tag_of_python_in_the_configuration_of_a_run(run, tmp_path, marker, refused, verb):
    run.config_path.write_text(run.config_path.read_text() + f"name: {evil.tag(marker)}\n")
    arguments = {"export": [run.root, tmp_path / "out"], "plot": ["sink_rate", run.root]}.get(verb, [run.root])
    assert "config.yaml: cannot be read as YAML" in refused(verb, *arguments, code=2)


@pytest.mark.parametrize(
    "content",
    [
        {"class_path": "evil.Model", "init_args": {}},
        {"model": {"class_path": "evil.Model", "init_args": {"a": 1}}},
        {"optimizer": {"class_path": "evil.Optimizer"}},
        {"model": {"attention": {"weights": {"class_path": "evil.Weights"}}}},
        {"model": {"attention": {"weights": {"name": "softmax", "class_path": "evil.Weights"}}}},
        {"trainer": {"callbacks": [{"class_path": "evil.Callback"}]}},
        {"_target_": "evil.Model"},
    ],
)
def test_a_class_path(tmp_path, small_mapping, evil_module, refused, content):
    model = {**small_mapping["model"], **content.get("model", {})}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**small_mapping, **content, "model": model}))
    said = refused("train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "run", code=2)
    assert any(key in said for key in ("class_path", "_target_", "trainer", "attention.weights"))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_kinds_are_no_paths(tmp_path, evil_module, refused, name):
    for attention in ({"weights": {"name": name}}, {"output": [{"name": name}]}):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"attention": attention}}))
        said = refused("train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "run", code=2)
        assert "attention." in said
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"probes": {"metrics": [name]}}))
    assert "probes.metrics" in refused("train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "r", code=2)


@pytest.mark.parametrize("name", NAMES)
def test_names_on_the_command_line_are_no_paths(run, evil_module, refused, name):
    assert "metrics: there is no" in refused("probe", run.root, "--metrics", name, code=2)
    assert "--with: " in refused("intervene", run.root, "--with", name, code=2)
    assert "figures: there is no" in refused("plot", name, run.root, code=2)


@pytest.mark.parametrize("kind", registry.KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_registries_load_only_their_files(evil_module, kind, name):
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="there is no"):
        registry.load(kind, name)
    assert set(sys.modules) == before
