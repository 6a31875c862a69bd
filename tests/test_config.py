"""The configuration: files on files, overrides, and the refusal of everything that is not understood."""

import re
import typing
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

import pytest
import yaml

from sinkpretrain.config import Config, ModelConfig, load_config
from sinkpretrain.errors import ConfigError
from sinkpretrain.mappings import build, difference, merge, parse_overrides, read_yaml, to_mapping


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file, given as text or as a mapping, and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


# ---- files on files


def test_base_chain(write):
    """Later ones win, key by key; each path is relative to the file it stands in."""
    write("base.yaml", {"seed": 1, "tokens": 500_000, "model": {"n_layers": 2, "n_heads": 2}})
    write("model/tiny.yaml", {"base": "../base.yaml", "model": {"n_heads": 8, "d_ff": 64}})
    write("model/deep.yaml", {"model": {"n_layers": 9, "d_model": 64}})
    path = write("experiments/own.yaml", {"base": ["../model/tiny.yaml", "../model/deep.yaml"], "model": {"d_ff": 32}})
    assert read_yaml(path) == {
        "seed": 1,
        "tokens": 500_000,
        "model": {"n_layers": 9, "n_heads": 8, "d_ff": 32, "d_model": 64},
    }
    config = load_config(path)
    assert (config.seed, config.model.n_layers, config.model.d_ff, config.model.head_size) == (1, 9, 32, 8)


def test_a_file_may_be_reached_twice(write):
    write("base.yaml", {"seed": 1})
    write("left.yaml", {"base": "base.yaml"})
    write("right.yaml", {"base": "base.yaml"})
    assert read_yaml(write("own.yaml", {"base": ["left.yaml", "right.yaml"]})) == {"seed": 1}


def test_circle(write):
    write("a.yaml", {"base": "folder/b.yaml"})
    write("folder/b.yaml", {"base": "../a.yaml"})
    with pytest.raises(ConfigError, match=r"a\.yaml: builds on itself"):
        read_yaml(write("c.yaml", {"base": "a.yaml"}))
    with pytest.raises(ConfigError, match="builds on itself"):
        read_yaml(write("self.yaml", {"base": "self.yaml"}))


def test_missing_base_names_both_files(write):
    path = write("own.yaml", {"base": "gone.yaml"})
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file \(a `base:` of .*own\.yaml\)"):
        read_yaml(path)
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such file"):
        read_yaml(path.parent / "nothing.yaml")


@pytest.mark.parametrize("bad", [3, {"a": 1}, ["x.yaml", 3], [["x.yaml"]]])
def test_base_that_is_no_file_name(write, bad):
    with pytest.raises(ConfigError, match=r"own\.yaml: base: .* is not a file name or a list of file names"):
        read_yaml(write("own.yaml", {"base": bad}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "holds a list"),
        ("just text", "holds a str"),
        ("", "holds a NoneType"),
        ("a: [1", "cannot be read as YAML"),
        ("a: !!python/object:os.system x", "cannot be read as YAML.*python/object"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read as YAML.*python/object"),
    ],
)
def test_text_that_is_no_configuration(write, text, message):
    with pytest.raises(ConfigError, match=rf"own\.yaml: {message}"):
        read_yaml(write("own.yaml", text))


def test_another_name_replaces_the_mapping_whole():
    below = {"model": {"attention": {"weights": {"name": "sigmoid", "bias": "minus_log_context"}}}, "name": "a"}

    def weights(above):
        return merge(below, {"model": {"attention": {"weights": above}}})["model"]["attention"]["weights"]

    assert weights({"name": "softmax"}) == {"name": "softmax"}
    both = {"name": "sigmoid", "bias": "minus_log_context", "normalize": True}
    assert weights({"name": "sigmoid", "normalize": True}) == both
    assert weights({"normalize": True}) == both
    assert merge(below, {"name": "b"}) == {**below, "name": "b"}, "the run's own name replaces nothing else"
    assert below["model"]["attention"]["weights"]["bias"] == "minus_log_context", "merging changes neither side"


def test_lists_are_replaced():
    below = {"output": [{"name": "gate"}]}
    assert merge(below, {"output": [{"name": "head_rmsnorm"}]}) == {"output": [{"name": "head_rmsnorm"}]}
    assert merge(below, {"output": []}) == {"output": []}


# ---- overrides


def test_overrides_in_both_forms():
    expected = {"optimizer": {"learning_rate": "2e-3", "clip": None}, "probes": {"metrics": ["sink_rate"]}}
    spaced = ["--optimizer.learning_rate", "2e-3", "--probes.metrics", "[sink_rate]", "--optimizer.clip", "null"]
    joined = ["--optimizer.clip=null", "--probes.metrics=[sink_rate]", "--optimizer.learning_rate=2e-3"]
    assert parse_overrides(spaced) == expected
    assert parse_overrides(joined) == expected
    assert parse_overrides(["--optimizer.eps", "-1", "--name=a=b"]) == {"optimizer": {"eps": -1}, "name": "a=b"}
    assert parse_overrides([]) == {}


def test_overrides_win_over_files_and_later_over_earlier(write):
    path = write("own.yaml", {"seed": 1, "model": {"attention": {"weights": {"name": "kv_bias", "value": "learned"}}}})
    overrides = ["--seed", "2", "--model.attention.weights.name", "sigmoid", "--model.attention.weights.normalize=true"]
    config = load_config(path, parse_overrides([*overrides, "--seed=3"]))
    assert config.seed == 3
    assert config.model.attention.weights == {"name": "sigmoid", "normalize": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed", "3"], "'seed' is not understood"),
        (["-s", "3"], "'-s' is not understood"),
        (["--"], "'--' is not understood"),
        (["--seed"], "--seed: its value is missing"),
        (["--seed", "--tokens", "3"], "--seed: its value is missing"),
        (["--seed=[1"], r"--seed: '\[1' cannot be read as YAML"),
        (["--seed", "!!python/object/apply:os.getpid []"], "--seed: .* cannot be read as YAML"),
    ],
)
def test_overrides_that_are_not_understood(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_overrides(arguments)


# ---- refusals; tests/reliability/matrix/bad_values.py has every field with values of another type and out of range


def test_true_is_not_one():
    @dataclass(frozen=True, kw_only=True)
    class Levels:
        level: Literal[1, 2] = 1

    assert build(Levels, {"level": 2}, "").level == 2
    with pytest.raises(ConfigError, match="level: True is not one of 1, 2"):
        build(Levels, {"level": True}, "")


def test_a_section_that_is_no_mapping_is_refused():
    sections = [field.name for field in fields(Config) if is_dataclass(typing.get_type_hints(Config)[field.name])]
    assert len(sections) >= 8
    for section in [*sections, "model.attention"]:
        for value in (3, "text", [1], None):
            with pytest.raises(ConfigError, match=rf"^{re.escape(section)}: {re.escape(repr(value))} is not a mapping"):
                build(Config, nested(section, value), "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": 3}, "32 is not a multiple of devices x nodes = 3 x 1"),
        ({"devices": 8, "nodes": 8}, "32 is not a multiple of devices x nodes = 8 x 8"),
        ({"strategy": "fsdp"}, "strategy: 'fsdp' is not one of ddp, sharded"),
        ({"data": {"bos": "window", "document_mask": True}}, r"data\.bos: 'window'"),
        ({"model": {"attention": {"weights": {"name": "softmaxx"}}}}, r"weights: name 'softmaxx' .* softmax"),
        ({"model": {"attention": {"output": [{}]}}}, r"attention\.output: name None is not one of gate"),
        ({"model": {"attention": {"output": ["gate"]}}}, r"model\.attention\.output\[0\]: 'gate' is not a mapping"),
    ],
)
def test_a_combination_without_a_meaning_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        build(Config, given, "")


@pytest.mark.parametrize(
    ("key", "suggestion", "allowed"),
    [
        ("optimizer.learning_rat", " Did you mean 'optimizer.learning_rate'?", "learning_rate, beta1, beta2"),
        ("optimiser", " Did you mean 'optimizer'?", "name, variant, seed, tokens"),
        ("model.attention.wieghts", " Did you mean 'model.attention.weights'?", "weights, output"),
        ("data.zzzz", "", "store, seed, bos, document_mask, workers"),
    ],
)
def test_an_unknown_key_names_what_is_allowed(key, suggestion, allowed):
    with pytest.raises(ConfigError) as caught:
        build(Config, nested(key, 1), "")
    assert str(caught.value).startswith(f"{key}: unknown key.{suggestion} Allowed here: {allowed}")


# ---- values


def test_numbers_that_yaml_reads_as_text(write):
    """YAML 1.1 wants 1.0e-3; everybody writes 1e-3."""
    text = "tokens: 2e9\nseed: 7.0\noptimizer: {learning_rate: 1e-3, eps: 1e-8, clip: 1}\nlog_every: 1_000\n"
    assert yaml.safe_load(text)["tokens"] == "2e9", "YAML reads text"
    config = load_config(write("own.yaml", text))
    assert (config.tokens, config.seed, config.log_every) == (2_000_000_000, 7, 1000)
    assert (config.optimizer.learning_rate, config.optimizer.eps, config.optimizer.clip) == (1e-3, 1e-8, 1.0)
    assert [type(value) for value in (config.tokens, config.seed, config.optimizer.clip)] == [int, int, float]


def test_round_trip(write):
    given = {
        "seed": 3,
        "tokens": 10**9,
        "precision": "bf16",
        "model": {"n_kv_heads": 2, "vocab_size": 300, "attention": {"weights": {"name": "sigmoid", "normalize": True}}},
        "optimizer": {"clip": None, "eps": 1e-12, "learning_rate": 0.1 + 0.2},
        "probes": {"metrics": []},
    }
    config = build(Config, given, "")
    mapping = to_mapping(config)
    assert build(Config, mapping, "") == config
    assert load_config(write("written.yaml", yaml.safe_dump(mapping))) == config
    assert load_config(write("defaults.yaml", yaml.safe_dump(to_mapping(Config())))) == Config()


def test_difference():
    old = to_mapping(Config())
    new = to_mapping(build(Config, {"seed": 4, "model": {"attention": {"weights": {"name": "sigmoid"}}}}, ""))
    assert difference(old, new) == {"seed": (0, 4), "model.attention.weights.name": ("softmax", "sigmoid")}
    assert difference(old, old) == {}
    assert difference({"a": {"b": 1}}, {"a": {}, "c": 2}) == {"a.b": (1, None), "c": (None, 2)}


def test_steps_and_shapes():
    config = build(Config, {"tokens": 100_000, "micro_batch_size": 4, "devices": 2, "model": {"n_kv_heads": 1}}, "")
    assert (config.tokens_per_step, config.steps, config.accumulation) == (32 * 256, 12, 4)
    assert (config.model.head_size, config.model.kv_heads, ModelConfig().kv_heads) == (32, 1, 4)


@pytest.mark.parametrize(
    ("given", "windows", "accumulation"),
    [
        ({"micro_batch_size": 32}, 24, 1),
        ({"micro_batch_size": 10}, 8, 3),
        ({"micro_batch_size": 10, "devices": 2}, 6, 2),
        ({"micro_batch_size": 10, "devices": 2, "nodes": 4}, 3, 1),
        ({"micro_batch_size": 10, "devices": 24}, 1, 1),
    ],
)
def test_micro_batches_are_as_large_as_they_may_be_and_divide_the_share_of_a_device(given, windows, accumulation):
    config = build(Config, {"global_batch_size": 24, **given}, "")
    assert (config.windows_per_pass, config.accumulation) == (windows, accumulation)
    assert windows * accumulation * config.devices * config.nodes == 24


def test_weights_without_a_name_are_softmax():
    assert ModelConfig(attention={"weights": {}}) == ModelConfig() == ModelConfig(attention={})
    assert ModelConfig().attention.weights == {"name": "softmax"}


def test_a_model_takes_plain_attention_in_python():
    config = ModelConfig(vocab_size=10, attention={"weights": {"name": "sigmoid"}})
    assert config.attention.weights == {"name": "sigmoid"}
    assert config.attention.output == []
    with pytest.raises(ConfigError, match=r"model\.attention\.weigths: unknown key"):
        ModelConfig(vocab_size=10, attention={"weigths": {"name": "sigmoid"}})
