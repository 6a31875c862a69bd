"""Runs that began otherwise than their names say are refused or remarked, as are records that contradict themselves."""

import json
import shutil

import pytest
import torch
from training_runs import STEPS, write_run, write_runs

from sinkpretrain.comparison.verdicts import compare
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.files import write_json
from sinkpretrain.model.initialisation import fingerprints
from sinkpretrain.model.llama import Llama
from sinkpretrain.runs import Run

FINALS = {"softmax": (4.00, 4.02), "sigmoid": (3.80, 3.81)}
SIGMOID = {"model": {"attention": {"weights": {"name": "kv_bias"}, "output": [{"name": "gate"}]}}}


@pytest.fixture
def runs(tmp_path):
    """Two variants of two seeds with the initial weights that their models have."""
    found = write_runs(tmp_path / "trial", {"softmax": FINALS["softmax"]})
    found += write_runs(tmp_path / "trial", {"sigmoid": FINALS["sigmoid"]}, overrides=SIGMOID)
    for run in found:
        begin(run)
        software(run)
    return found


def begin(run, seed=None):
    """Write down the weights with which a run begins; of another seed where one is given."""
    config = run.config()
    model = Llama(config.model, config.seed if seed is None else seed)
    write_json(run.initial_weights_path, fingerprints(dict(model.named_parameters())))
    return run


def software(run, commit="abc", **versions):
    versions = {"sinkpretrain": "0.1", "torch": "2.13.0", "lightning": "2.6.6", **versions}
    write_json(run.root / "environment.json", {"commit": commit, "versions": versions})


def altered(path, change):
    record = json.loads(path.read_text())
    change(record)
    write_json(path, record)


def warnings(runs):
    return compare(runs)["about"]["warnings"]


def said_of_beginnings(runs):
    return [line for line in warnings(runs) if "learning rate" not in line and "sigmoid and softmax" not in line]


def test_runs_that_began_alike_need_no_remark(runs):
    assert said_of_beginnings(runs) == []


def test_other_weights_of_one_seed_are_refused(runs):
    begin(runs[2], seed=5)
    with pytest.raises(ConfigError) as error:
        compare(runs)
    message = str(error.value)
    assert f"{runs[0].root} and {runs[2].root} are both of seed 0" in message
    assert "began with other values (embedding.weight, blocks.0.attention.w_q.weight, " in message
    tensors = json.loads(runs[0].initial_weights_path.read_text())
    drawn = sum(len(entry["shape"]) == 2 for entry in tensors.values())
    assert f"of {len(tensors)} tensors that they share {drawn} began" in message


def test_a_single_other_tensor_is_enough(runs):
    name = "blocks.3.mlp.w_down.weight"
    altered(runs[3].initial_weights_path, lambda record: record[name].update(sha256="0" * 64))
    with pytest.raises(
        ConfigError, match=rf"both of seed 1, but of \d+ tensors .* 1 began with other values \({name}\)"
    ):
        compare(runs)


def test_a_tensor_of_another_shape_or_name_is_not_shared(runs):
    def change(record):
        record["blocks.0.attention.w_q.weight"] = {"shape": [3, 3], "sha256": "0" * 64}
        record["blocks.0.attention.more"] = {"shape": [3], "sha256": "1" * 64}

    altered(runs[2].initial_weights_path, change)
    compare(runs)


@pytest.mark.parametrize("overrides", [{"model": {"init": "fan_in"}}, {"model": {"n_layers": 2}}], ids=str)
def test_a_configuration_that_begins_otherwise_is_remarked(runs, overrides, tmp_path):
    runs.append(begin(write_run(tmp_path / "more", "third", 0, 4.0, overrides=overrides)))
    ((key, value),) = overrides["model"].items()
    assert any(
        f"third differs from softmax in more than attention: model.{key} {value!r}" in of for of in warnings(runs)
    )


def test_seeds_that_began_with_the_same_weights_are_refused(runs):
    begin(runs[1], seed=0)
    altered(runs[3].initial_weights_path, lambda record: record.clear())
    with pytest.raises(ConfigError, match=f"{runs[0].root} and {runs[1].root} are seeds 0 and 1 of 'softmax'.*one run"):
        compare(runs)


def test_runs_without_the_record_are_remarked(runs):
    runs[1].initial_weights_path.unlink()
    assert said_of_beginnings(runs) == ["With which weights 1 of 4 runs began is not recorded: softmax-lr0.001-s1"]


def test_a_record_of_something_else_is_refused(runs):
    write_json(runs[1].initial_weights_path, {"embedding.weight": [1, 2]})
    with pytest.raises(DataError, match=f"{runs[1].initial_weights_path}: is not a record of initial weights"):
        compare(runs)


def test_the_fingerprints_of_training_are_those_of_the_untrained_model(small_run):
    config = small_run.config()
    expected = fingerprints(dict(Llama(config.model, config.seed).named_parameters()))
    assert json.loads(small_run.initial_weights_path.read_text()) == expected
    assert {entry["sha256"] for entry in expected.values()}.isdisjoint(
        entry["sha256"] for entry in fingerprints({"x": torch.zeros(3)}).values()
    )


@pytest.mark.parametrize(
    ("split", "named"), [("train", "tokens of the first steps"), ("validation", "tokens of validation")]
)
def test_other_tokens_from_one_store_are_refused(runs, split, named):
    """As a run would read whose code orders the same store otherwise."""
    for run, digest in zip(runs, "ab", strict=False):
        hashes = {"train": "0" * 64, "validation": "0" * 64, split: digest * 64}
        altered(run.data_manifest_path, lambda record, hashes=hashes: record.update(token_hashes=hashes))
    with pytest.raises(ConfigError, match=f"{named} was 'aaaaaaaaaaaa', is 'bbbbbbbbbbbb'"):
        compare(runs)


def test_another_tokenizer_is_named(runs):
    for run, digest in zip(runs, "aaab", strict=True):
        altered(run.data_manifest_path, lambda record, digest=digest: record.update(tokenizer_sha256=digest * 64))
    altered(runs[3].data_manifest_path, lambda record: record.update(fingerprint="f" * 64))
    expected = "token store was 'aaaaaaaaaaaa', is 'ffffffffffff'; tokenizer was 'aaaaaaaaaaaa', is 'bbbbbbbbbbbb'"
    with pytest.raises(ConfigError, match=f"{runs[0].root} and {runs[3].root} cannot be compared: {expected}"):
        compare(runs)


def test_other_code_and_versions_are_remarked_once(runs):
    software(runs[2], commit="def" * 13, torch="2.12.0")
    software(runs[3], commit="def" * 13, torch="2.12.0")
    assert said_of_beginnings(runs) == [
        "Other code than softmax-lr0.001-s0 ran sigmoid-lr0.001-s0, sigmoid-lr0.001-s1: commit defdefdefdef instead of "
        "abc; torch 2.12.0 instead of 2.13.0"
    ]


def test_code_beside_its_commit_is_remarked(runs):
    for run in runs:
        software(run, commit="abc" * 13 + "+")
    (line,) = said_of_beginnings(runs)
    assert line.startswith("Files differed from the commit in 4 of 4 runs, so the code may have: softmax-lr0.001-s0, ")
    assert line.endswith(", ...")


def test_updates_that_were_left_out_are_remarked(runs, tmp_path):
    curve = [(0, 8.0), (1, 3.9)]
    with_skips = write_run(tmp_path / "more", "third", 0, 3.9, curve=curve, probed={"optim/skipped": 4.0})
    found = warnings([*runs, with_skips])
    assert "Updates left out, since their loss or gradient was not sound: third-lr0.001-s0 4" in found


def rewritten(run: Run, change):
    """metrics.jsonl with its rows changed by hand."""
    rows = run.metrics()
    change(rows)
    run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.pop(0), "has no val/loss of step 0, where it was due"),
        (lambda rows: rows.pop(), f"the run is done at step {STEPS}, its last val/loss is of step 50"),
        (lambda rows: rows.insert(1, dict(rows[1])), "step 50 comes after step 50"),
        (lambda rows: rows.reverse(), "step 50 comes after step 100"),
        (lambda rows: rows[1].update(tokens=7), r"step 50 is at 7 tokens, but steps of 1,024 tokens make 51,200"),
        (lambda rows: rows[1].pop("step"), "line 2 is not a step and numbers"),
        (lambda rows: rows[-1].update({"val/loss": 3.0}), r"its last val/loss is 3.0, but status.json has 4.0"),
    ],
)
def test_a_curve_that_contradicts_itself_is_refused(runs, change, said):
    runs[0].write_status("done", **{"val/loss": 4.0})
    compare(runs)
    rewritten(runs[0], change)
    with pytest.raises(DataError, match=f"{runs[0].metrics_path}: {said}.*the record was altered"):
        compare(runs)


def test_a_validation_that_is_missing_is_refused(small_run, tmp_path):
    copy = Run(shutil.copytree(small_run.root, tmp_path / "copy"))
    rewritten(copy, lambda rows: rows.remove(next(row for row in rows if row["step"] == 6)))
    with pytest.raises(DataError, match="has no val/loss of step 6, where it was due"):
        compare([copy])


def test_real_runs_are_sound(small_run):
    with pytest.raises(ConfigError, match="are of one variant"):
        compare([small_run])
