import pytest
import yaml

from sinkpretrain.cli import run
from sinkpretrain.comparison.experiment import read_experiment, read_experiment_record
from sinkpretrain.comparison.members import config_file, prepare
from sinkpretrain.config import load_config
from sinkpretrain.errors import ResumeError
from sinkpretrain.runs import Run

SHARED = {"tokens": 100_000, "seeds": [0, 1], "model": {"n_layers": 2}}


@pytest.fixture
def experiment(tmp_path):
    """`experiment(**changes)`, read from its file."""

    def read(**changes):
        content = {**SHARED, "variants": {"softmax": {}, "sigmoid": {}}, **changes}
        (tmp_path / "trial.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return read_experiment(tmp_path / "trial.yaml")

    return read


@pytest.fixture
def begun(experiment, tmp_path):
    """The experiment's folder, with all four runs begun."""
    root = tmp_path / "runs" / "trial"
    for member in experiment().members:
        Run(root / member.folder).create(member.config)
    return root


def test_each_run_gets_its_configuration_and_the_experiment_its_record(experiment, tmp_path):
    prepared = prepare(experiment(), tmp_path / "trial")
    assert list(prepared) == ["softmax-s0", "softmax-s1", "sigmoid-s0", "sigmoid-s1"]
    for member in experiment().members:
        assert load_config(config_file(member, tmp_path / "trial")) == member.config
    assert [one["folder"] for one in read_experiment_record(tmp_path / "trial")["runs"]] == list(prepared)
    assert not (tmp_path / "trial" / "softmax-s0").exists()


def test_a_change_under_existing_runs_is_refused_with_the_difference(experiment, begun):
    with pytest.raises(ResumeError) as refused:
        prepare(experiment(tokens=200_000, optimizer={"beta2": 0.99}), begun)
    assert str(refused.value) == (
        f"{begun}/softmax-s0: was started with another configuration (tokens was 100000, is 200000; "
        "optimizer.beta2 was 0.95, is 0.99); use another --out; 3 more runs were changed: softmax-s1, sigmoid-s0, "
        f"sigmoid-s1. Nothing was started: undo the change in {begun.parents[1]}/trial.yaml, or give it another name"
    )
    assert not (begun / "configs").exists()
    assert not (begun / "experiment.json").exists()


def test_one_changed_variant_is_enough(experiment, begun):
    with pytest.raises(ResumeError, match=r"sigmoid-s0: .*seed was 0, is 5.*; 1 more runs"):
        prepare(experiment(variants={"softmax": {}, "sigmoid": {"data": {"seed": 5}}}), begun)


def test_variants_and_seeds_may_come_and_go(experiment, begun):
    prepare(experiment(variants={"softmax": {}}), begun)
    assert [one["folder"] for one in read_experiment_record(begun)["runs"]] == ["softmax-s0", "softmax-s1"]
    prepare(experiment(seeds=[1, 2], variants={"new": {}, "sigmoid": {}, "softmax": {}}), begun)
    folders = [one["folder"] for one in read_experiment_record(begun)["runs"]]
    assert folders == ["new-s1", "new-s2", "sigmoid-s1", "sigmoid-s2", "softmax-s1", "softmax-s2"]


def test_where_runs_are_worked_on_may_change(experiment, begun):
    changed = experiment(devices=2, micro_batch_size=4, wandb={"mode": "offline"})
    prepare(changed, begun)
    written = load_config(config_file(changed.members[0], begun))  # what the run's next process reads
    assert (written.devices, written.micro_batch_size, written.wandb.mode) == (2, 4, "offline")


def test_a_sweep_starts_nothing_where_it_is_refused(experiment, begun, tmp_path, capsys):
    experiment(seeds=[0, 1, 2])
    arguments = ["sweep", str(tmp_path / "trial.yaml"), "--out", str(tmp_path / "runs"), "--optimizer.beta2", "0.99"]
    assert run(arguments) == 5
    assert "optimizer.beta2 was 0.95, is 0.99" in capsys.readouterr().err
    assert not list(begun.glob("*/train.log"))
    assert not (begun / "softmax-s2").exists()
