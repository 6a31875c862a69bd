import pytest
import yaml

from sinkpretrain.comparison.experiment import read_experiment, read_experiment_record
from sinkpretrain.errors import ConfigError
from sinkpretrain.mappings import difference, to_mapping

SHARED = {"tokens": 100_000, "seeds": [0, 1], "model": {"n_layers": 2}}


@pytest.fixture
def write(tmp_path):
    (tmp_path / "sigmoid.yaml").write_text("model: {attention: {weights: {name: sigmoid, normalize: true}}}")

    def write(content, name="trial.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def test_variants_times_seeds_times_learning_rates(write):
    variants = {"softmax": None, "sigmoid": {"base": "sigmoid.yaml", "optimizer": {"learning_rate": [1e-3, 2e-3]}}}
    experiment = read_experiment(write({**SHARED, "variants": variants}))
    members = experiment.members
    assert experiment.name == "trial"
    assert [member.folder for member in members] == [
        "softmax-s0",
        "softmax-s1",
        "sigmoid-lr0.001-s0",
        "sigmoid-lr0.001-s1",
        "sigmoid-lr0.002-s0",
        "sigmoid-lr0.002-s1",
    ]
    assert [member.config.seed for member in members] == [0, 1] * 3
    assert [member.config.optimizer.learning_rate for member in members[2:]] == [1e-3, 1e-3, 2e-3, 2e-3]
    assert {member.config.variant for member in members} == {"softmax", "sigmoid"}


def test_runs_differ_in_nothing_but_what_their_variant_says(write):
    softmax, sigmoid = read_experiment(
        write({**SHARED, "seeds": [3], "variants": {"softmax": {}, "sigmoid": {"base": "sigmoid.yaml"}}})
    ).members
    changed = difference(to_mapping(softmax.config), to_mapping(sigmoid.config))
    assert changed == {
        "variant": ("softmax", "sigmoid"),
        "model.attention.weights.name": ("softmax", "sigmoid"),
        "model.attention.weights.normalize": (None, True),
    }


def test_overrides_win_over_variants(write):
    path = write({**SHARED, "variants": {"a": {"tokens": 500_000}}})
    members = read_experiment(path, {"tokens": 200_000, "seeds": [7], "name": "renamed"}).members
    (member,) = members
    assert (member.folder, member.config.tokens, member.config.name) == ("a-s7", 200_000, "renamed")


def test_the_record_keeps_what_reports_and_comparisons_need(write, tmp_path):
    path = write(
        {**SHARED, "question": "Which?", "baseline": "b", "slurm": {"hours": 2}, "variants": {"a": {}, "b": {}}}
    )
    experiment = read_experiment(path, {"slurm": {"partition": "gpu"}})
    assert (experiment.question, experiment.baseline) == ("Which?", "b")
    assert experiment.slurm == {"hours": 2, "partition": "gpu"}
    experiment.write_record(tmp_path / "runs")
    record = read_experiment_record(tmp_path / "runs")
    assert (record["name"], record["question"], record["baseline"]) == ("trial", "Which?", "b")
    assert record["source"] == str(path)
    assert [run["folder"] for run in record["runs"]] == ["a-s0", "a-s1", "b-s0", "b-s1"]
    assert record["runs"][3] == {"folder": "b-s1", "variant": "b", "seed": 1, "learning_rate": 1e-3}
    assert read_experiment_record(tmp_path) is None


def test_the_first_variant_is_the_baseline_where_none_is_named(write):
    assert read_experiment(write({**SHARED, "variants": {"b": {}, "a": {}}})).baseline == "b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SHARED, "variants: None is not a mapping"),
        ({**SHARED, "variants": {}}, "variants: {} is not a mapping"),
        ({**SHARED, "variants": {"a": {}}, "seeds": []}, r"seeds: \[\] is not a list"),
        ({**SHARED, "variants": {"a": {}}, "seeds": [1, 1]}, "names a seed twice"),
        ({**SHARED, "variants": {"a": {}}, "baseline": "b"}, "baseline: 'b' is not one of the variants: a"),
        ({**SHARED, "variants": {"a": {}}, "slurm": "gpu"}, "slurm: 'gpu' is not a mapping"),
        ({**SHARED, "variants": {"a": {"tokns": 5}}}, "a-s0: tokns: unknown key"),
        ({**SHARED, "variants": {"a": {"base": "none.yaml"}}}, "none.yaml: no such file"),
    ],
)
def test_mistakes_are_named(write, content, message):
    with pytest.raises(ConfigError, match=message):
        read_experiment(write(content))
