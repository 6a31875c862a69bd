"""The command line as a user meets it: real processes, exit codes, one sentence an error."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from sinkpretrain import checkpoints
from sinkpretrain.cli import run
from sinkpretrain.runs import Run

ROOT = Path(__file__).parents[1]
VERBS = (
    "prepare",
    "train",
    "sweep",
    "import",
    "export",
    "probe",
    "intervene",
    "calibrate",
    "eval",
    "compare",
    "plot",
    "report",
    "doctor",
)


@pytest.fixture
def config_file(tmp_path, small_mapping):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_mapping))
    return path


def process(*arguments, **options):
    command = [sys.executable, "-m", "sinkpretrain", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, **options)


def refused(capsys, *arguments):
    """The exit code and the message of a command that fails; it is one line and no traceback."""
    code = run([str(argument) for argument in arguments])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("sinkpretrain: ")
    return code, message


def test_help_names_every_verb_in_under_half_a_second():
    process("--help")  # byte-compiles
    times = []
    for _ in range(5):
        started = time.perf_counter()
        result = process("--help")
        times.append(time.perf_counter() - started)
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in VERBS)
    assert min(times) < 0.5


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        run([verb, "--help"])
    assert f"sinkpretrain {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["trian"], ["sweep"], ["plot", "--x", "hours"]])
def test_usage_errors_end_with_2(arguments):
    with pytest.raises(SystemExit, match="2"):
        run(arguments)


def test_train_prints_where_and_how_it_ended(config_file, tmp_path, capsys):
    assert (
        run(["train", "--tokens", "1024", "--config", str(config_file), "--out", str(tmp_path / "run"), "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == str(tmp_path / "run")
    assert result["step"] == 4


@pytest.mark.parametrize("before", [True, False])
def test_overrides_stand_before_or_after_the_file(config_file, tmp_path, before, capsys):
    overrides = ["--model.d_ff", "48", "--optimizer.learning_rate=2e-3"]
    file = ["--config", str(config_file)]
    assert run(["train", *(overrides + file if before else file + overrides), "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["parameters"] == 2 * (4 * 32 * 32 + 3 * 32 * 48 + 64) + 32 + 2 * 512 * 32


def test_dry_run_writes_nothing(config_file, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert run(["train", "--config", str(config_file), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("parameters", "tokens", "memory", "disk"))


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        (["--model.n_layer", "3"], 2, "model.n_layer: unknown key. Did you mean 'model.n_layers'?"),
        (["--model.n_layers", "three"], 2, "model.n_layers: 'three' is not a whole number"),
        (["--schedule.shape", "linear"], 2, "schedule.shape: 'linear' is not one of constant, cosine, wsd"),
        (["--model.attention.weights.name", "sofmax"], 2, "softmax, softmax_off_by_one"),
        (["--model.attention.weights.bias", "zero"], 2, "model.attention.weights.bias: 'softmax' has no such option"),
        (["--data.store", "nowhere"], 3, "sinkpretrain prepare"),
        (["--model.context_length", "1_000_000", "--tokens", "1e9"], 3, "too few for one window"),
        (["--validation.windows", "1_000_000"], 3, "1,000,000 were asked for; lower validation.windows"),
        (["--tokens", "5"], 2, "tokens: 5 is out of range"),
        (["--tokens"], 2, "--tokens: its value is missing"),
        (["stray"], 2, "'stray' is not understood"),
        (["--optimizer.learning_rate", "1e30", "--optimizer.clip", "null"], 4, "is not finite; its windows are"),
    ],
)
def test_bad_input_is_one_sentence_and_its_exit_code(config_file, tmp_path, capsys, override, code, message):
    found, said = refused(capsys, "train", "--config", config_file, "--out", tmp_path / "run", *override)
    assert message in said
    assert found == code


def test_a_missing_file_is_named(tmp_path, capsys):
    code, said = refused(capsys, "train", "--config", tmp_path / "none.yaml")
    assert code == 2
    assert f"{tmp_path / 'none.yaml'}: no such file" in said


def test_an_altered_shard_is_refused_before_anything_is_written(tmp_path, prose_recipe, config_file, capsys):
    store = tmp_path / "store"
    assert run(["prepare", str(prose_recipe), "--out", str(store)]) == 0
    shard = store / "train_00000.bin"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    code, said = refused(capsys, "train", "--config", config_file, "--data.store", store, "--out", tmp_path / "run")
    assert code == 3
    assert "train_00000.bin" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_an_empty_corpus_is_refused(tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "recipe.yaml").write_text(
        "sources: [{name: files, path: empty.jsonl}]\n"
        "tokenizer: {name: train, vocab_size: 300}\n"
        "validation_fraction: 0.1\n"
    )
    code, said = refused(capsys, "prepare", tmp_path / "recipe.yaml")
    assert code == 3
    assert "empty" in said


def test_a_finished_run_is_not_overwritten(config_file, tmp_path, capsys):
    arguments = ["train", "--config", str(config_file), "--out", str(tmp_path / "run")]
    assert run([*arguments, "--tokens", "512"]) == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    code, said = refused(capsys, *arguments)
    assert code == 5
    assert "--resume" in said
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_process_says_how_to_go_on_and_does(config_file, tmp_path, number, code):
    folder = tmp_path / "run"
    arguments = ["train", "--config", config_file, "--out", folder, "--tokens", "400_000"]
    command = [sys.executable, "-m", "sinkpretrain", *map(str, arguments)]
    training = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not checkpoints.steps(folder / "checkpoints"):
        assert training.poll() is None
        time.sleep(0.05)
    training.send_signal(number)
    _, said = training.communicate(timeout=60)
    assert training.returncode == code
    assert f"sinkpretrain train --resume {folder}" in said
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "preempted"
    assert checkpoints.problem(checkpoints.path_of(folder / "checkpoints", status["step"])) is None


@pytest.mark.slow
def test_two_processes_train_as_one_with_two_micro_batches(config_file, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    shared = ["train", "--config", config_file, "--micro_batch_size", "4"]
    result = process(*shared, "--devices", "2", "--out", two)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert process(*shared, "--out", one).returncode == 0
    assert Run(two).series("train/loss")[1].tolist() == Run(one).series("train/loss")[1].tolist()
    for name in ("val/loss", "sink/first_token_mean", "rank/effective_mean"):
        assert Run(two).series(name)[1] == pytest.approx(Run(one).series(name)[1], rel=1e-5)
    assert Run(two).probe_steps() == Run(one).probe_steps()


def test_a_folder_of_runs_means_its_runs_in_the_order_they_began(config_file, tmp_path):
    from sinkpretrain.cli.results import runs_of

    for variant in ("softmax", "sigmoid", "head_rmsnorm"):
        arguments = ["train", "--config", config_file, "--tokens", "256", "--out", tmp_path / "runs" / variant]
        assert run([str(argument) for argument in arguments]) == 0
    assert [found.root.name for found in runs_of([tmp_path / "runs"])] == ["softmax", "sigmoid", "head_rmsnorm"]
    assert [found.root.name for found in runs_of([tmp_path / "runs" / "sigmoid", tmp_path / "runs"])] == [
        "sigmoid",
        "softmax",
        "head_rmsnorm",
    ]


@pytest.fixture
def probed(small_run, tmp_path):
    """A copy of the small run, to keep records in."""
    return Run(shutil.copytree(small_run.root, tmp_path / "small"))


def test_probe_adds_to_the_records_of_every_checkpoint(probed, capsys):
    arguments = ["probe", str(probed.root), "--checkpoint", "8", "12", "--metrics", "key_alignment", "value_norm"]
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["scalars"]) == ["8", "12"]
    assert found["records"] == [str(probed.probe_path(step)) for step in (8, 12)]
    assert found["scalars"]["12"]["text/loss"] < found["scalars"]["8"]["text/loss"]
    record = probed.probe(12)
    assert record["key_alignment/alignment"].shape == (2, 2)
    assert "effective_rank/all" in record, "what training recorded stays"
    assert run(arguments) == 0
    assert "text/perplexity" in capsys.readouterr().out


def test_probe_on_other_text_has_a_folder_of_its_own(probed, prose_recipe, tmp_path, capsys):
    arguments = ["probe", str(probed.root), "--text", str(prose_recipe), "--tokens", "24"]
    arguments += ["--metrics", "sink_tokens", "attention_map"]
    code, said = refused(capsys, *arguments)
    assert code == 2
    assert "was measured on another text" in said
    assert run([*arguments, "--out", str(tmp_path / "prose")]) == 0
    record = Run(tmp_path / "prose").probe(12)
    assert json.loads(str(record["about"]))["text"] == str(prose_recipe)
    assert len(record["sink_tokens/text"]) == 32
    assert Run(tmp_path / "prose").config().variant == "prose"
    assert run(["plot", "attention_map", str(tmp_path / "prose")]) == 0


def test_intervene_prints_a_table_and_writes_a_record(probed, capsys):
    arguments = ["intervene", str(probed.root), "--with", "amplify_variance", "--layer", "1", "--position", "4"]
    arguments += ["--strength", "1", "6", "--tokens", "16", "--sequences", "4", "--seeds", "2"]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert "amplify_variance 6 at 4" in shown.out
    assert "random_direction 5 at 4" in shown.out
    assert "text sample 2 of 2" in shown.err
    record = probed.intervention("amplify_variance")
    assert record["about"]["layers"] == [1]
    assert len(record["rows"]) == 2 * 7
    assert run([*arguments, "--no-controls", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2 * 3
    assert run(["plot", "amplify_variance", str(probed.root)]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["probe", "RUN", "--metrics", "sink"], 2, "metrics: there is no 'sink'; choose one of attention_map"),
        (["probe", "RUN", "--checkpoint", "7"], 5, "manifest.json is missing"),
        (["probe", "RUN", "--tokens", "33"], 2, "--tokens: 33 is out of range; allowed: 2 .. 32"),
        (["probe", "RUN", "--text", "none.txt"], 3, "none.txt: there is no such text"),
        pytest.param(
            *(["probe", "RUN", "--device", "cuda"], 2, "cuda is not there; use cpu"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["probe", "RUN", "--batch-size", "0"], 2, "batch_size: 0 is out of range"),
        (["probe", "nowhere"], 2, "nowhere: does not exist; give a run folder"),
        (["intervene", "RUN", "--with", "isolate"], 2, "'isolate' is not one of isolate_position"),
        (["intervene", "RUN", "--with", "isolate_position", "--layer", "5", "--tokens", "16"], 2, "layer: 5"),
        (["intervene", "RUN", "--with", "isolate_position", "--checkpoint", "all"], 2, "intervene takes one"),
        (["intervene", "RUN", "--with", "ablate_super_neurons", "--tokens", "16"], 2, "has no super neuron"),
        (["import", "nowhere", "OUT"], 2, "nowhere: does not exist"),
        (["export", "nowhere", "OUT"], 2, "is not a run folder"),
        (["plot", "all", "RUN", "--layer", "1"], 2, "--layer: has a meaning for one figure"),
        (["plot", "validation_loss", "RUN", "--layer", "1"], 2, "'validation_loss' has no such option"),
        (["plot", "super_neurons", "RUN", "--layer", "4"], 2, "4"),
    ],
)
def test_bad_input_to_the_verbs_of_models_is_one_sentence(probed, tmp_path, capsys, arguments, code, message):
    places = {"RUN": probed.root, "OUT": tmp_path / "out"}
    found, said = refused(capsys, *(places.get(argument, argument) for argument in arguments))
    assert message in said
    assert found == code
    assert not (tmp_path / "out").exists()


def test_a_run_goes_out_to_hugging_face_and_comes_back(probed, tmp_path, capsys):
    pytest.importorskip("transformers", reason="export needs the extra 'hub'")
    assert run(["export", str(probed.root), "--to", "hf", str(tmp_path / "hf")]) == 0
    assert run(["import", str(tmp_path / "hf"), str(tmp_path / "back"), "--json"]) == 0
    capsys.readouterr()
    metrics = ["--metrics", "dominance_ratio", "--sequences", "8", "--json"]
    assert refused(capsys, "probe", tmp_path / "back", *metrics)[0] == 2
    (tmp_path / "text.txt").write_text((ROOT / "README.md").read_text())
    text = ["--text", str(tmp_path / "text.txt")]
    assert run(["probe", str(tmp_path / "back"), *metrics, *text]) == 0
    back = json.loads(capsys.readouterr().out)["scalars"]["0"]
    assert run(["probe", str(probed.root), *metrics, *text, "--out", str(tmp_path / "own")]) == 0
    own = json.loads(capsys.readouterr().out)["scalars"]["12"]
    assert back["activation/dominance_mean"] == pytest.approx(own["activation/dominance_mean"], rel=1e-5)
    assert back["text/loss"] == pytest.approx(own["text/loss"], rel=1e-5)
    code, said = refused(capsys, "train", "--resume", tmp_path / "back")
    assert code == 5
    assert "import" in said


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(Exception, match="no such file"):
        run(["train", "--config", "none.yaml", "--debug"])


def test_doctor_reports_versions(capsys):
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"]
    assert found["bad_packages"] == {}
