"""A run folder or an experiment of a stranger: nothing outside of it is written, and what is no record is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sinkpretrain.errors import DataError
from sinkpretrain.records import read_record
from sinkpretrain.shapes import count, head, misfit, nothing, number, plain, text

ROOT = Path(__file__).parents[2]
UP = "../../../evil"
EXPERIMENT = {
    "name": "trial",
    "baseline": "softmax",
    "source": "trial.yaml",
    "runs": [{"folder": "softmax-s0", "variant": "softmax", "seed": 0, "learning_rate": 0.01}],
}


@pytest.fixture
def experiment(run):
    """The folder of an experiment with that run."""
    (run.root.parent / "experiment.json").write_text(json.dumps(EXPERIMENT))
    return run.root.parent


@pytest.mark.parametrize("key", ["name", "runs"])
@pytest.mark.parametrize("value", [UP, "/etc/x", "..", "a\nb", "\x1b[2J", "", 3, None])
def test_folders_of_an_experiment_are_plain_names(experiment, refused, rewrite, key, value):
    changed = value if key == "name" else [{**EXPERIMENT["runs"][0], "folder": value}]
    rewrite(experiment / "experiment.json", **{key: changed})
    said = refused("report", experiment, code=3)
    assert "experiment.json" in said
    assert "plain name" in said


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "[]", "3", "\x00", "{", '{"a": NaN}', "\xff\xfe", "1e999"])
@pytest.mark.parametrize("place", ["experiment.json", "softmax-s0/act/heads.json", "softmax-s0/eval/x.json"])
def test_what_is_no_record(experiment, place, content):
    path = experiment / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=path.name):
        read_record(path, "a command")


def test_a_source_that_never_ends(experiment, rewrite, capsys):
    rewrite(experiment / "experiment.json", source="/dev/zero")
    command = [sys.executable, "-m", "sinkpretrain", "report", str(experiment)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert "/dev/zero: no such file" in (experiment / "report.html").read_text()


@pytest.mark.parametrize("heads", [[[0, 99]], [[99, 0]], [[-1, 0]], [[0]], ["00"], [[0, 10**30]], [["0", 0]], 3])
def test_heads_that_the_model_does_not_have(run, tmp_path, refused, heads):
    from sinkpretrain.evaluation.evaluate import model_identity

    record = {
        "model": model_identity(run, 12),
        "settings": {},
        "tasks": {"embedded_continuation": {"items": 1, "hashes": ["x"]}},
        "items": 1,
        "layers": [0, 1],
        "vanilla": {"accuracy": 0.5},
        "heads": [{"layer": 0, "head": 0, "sink_share": 1.0, "accuracy": 0.0, "logprob": 0.0}],
        "saw_sink": 1,
        "rules": {"paper": heads, "corrected": []},
    }
    (tmp_path / "heads.json").write_text(json.dumps(record))
    arguments = ["--tasks", "embedded_continuation", "--limit", "1", "--act", tmp_path / "heads.json"]
    code = 2 if misfit(heads, [head]) is None else 3
    refused("eval", run.root, *arguments, code=code)


def test_links_of_a_stranger_are_not_written_through(run, tmp_path):
    outside = tmp_path / "precious.txt"
    for name in ("status.json", "metrics.jsonl"):
        content = (run.root / name).read_text()
        (run.root / name).unlink()
        (run.root / name).symlink_to(outside)
        outside.write_text(content)
        run.write_status("done")
        run.cut_metrics(0)
        assert outside.read_text() == content
        assert not (run.root / name).is_symlink()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "\x1b[2J"])
def test_records_of_evaluations_stay_in_their_folder(run, tmp_path, refused, name):
    arguments = ["--tasks", "embedded_continuation", "--limit", "1", f"--name={name}"]
    assert "--name" in refused("eval", run.root, *arguments, code=2)
    assert not (run.root / "eval").exists()


@pytest.mark.parametrize(
    ("value", "shape", "found"),
    [
        (3, count, None),
        (-1, count, "it is -1, not a whole number, 0 or more"),
        (True, count, "it is True, not a whole number, 0 or more"),
        (2**63, count, "not a whole number"),
        (float("nan"), number, "it is nan, not a finite number"),
        (10**400, number, "not a finite number"),
        ("a/b", plain, "it is 'a/b', not a plain name"),
        ({"a": [1, "b"]}, {"a": [count]}, "a[1] is 'b', not a whole number, 0 or more"),
        ({}, {"a": text}, "a is missing"),
        ({}, {"a?": text}, None),
        ({"a": None}, {"a": (number, nothing)}, None),
        ({"a": "x"}, {"a": (number, nothing)}, "a is 'x', not null"),
        ({"../a": 1}, {plain: count}, "a key is '../a', not a plain name"),
        ({"a": {"b": []}}, {"a": {text: count}}, "a.b is [], not a whole number"),
        ([0, 1], head, None),
        ([0, 1, 2], head, "not a pair of a layer and a head"),
        ("x" * 1000, count, "..., not a whole number"),
    ],
)
def test_misfits_are_named(value, shape, found):
    said = misfit(value, shape)
    assert (said is None) if found is None else (found in said and len(said) < 200)
