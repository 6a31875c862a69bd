"""The verb `eval` as a user meets it: tables, conditions after a head search, one sentence an error."""

import importlib.util
import json
import shutil

import pytest
from stock_tasks import write_documents

from sinkpretrain.cli import run as command
from sinkpretrain.errors import ConfigError
from sinkpretrain.evaluation.evaluate import model_identity
from sinkpretrain.files import write_json
from sinkpretrain.runs import Run

SEARCH = ["--act.first_layer", "0", "--act.last_layer", "1", "--act.alpha", "1.0"]


@pytest.fixture
def arm(small_run, tmp_path, monkeypatch):
    """A copy of the small run, to keep records in; models that are named by their source are imported beside it."""
    monkeypatch.chdir(tmp_path)
    return Run(shutil.copytree(small_run.root, tmp_path / "arm" / "softmax-s0"))


@pytest.fixture
def searched(arm, tmp_path):
    """The run after a head search, and the text of its tasks."""
    text = ["--text", str(write_documents(tmp_path / "text.jsonl"))]
    tasks = ["--tasks", "embedded_continuation", "--items", "24"]
    assert command(["calibrate", str(arm.root), *tasks, *text, *SEARCH]) == 0
    return arm, text


def refused(capsys, *arguments):
    """The exit code and the message of a command that fails; it is one line and no traceback."""
    code = command([str(argument) for argument in arguments])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("sinkpretrain: ")
    return code, message


def test_a_table_has_chance_errors_and_intervals(searched, capsys):
    arm, text = searched
    heads = json.loads(arm.heads_path.read_text())
    arguments = [
        "eval",
        str(arm.root),
        "--tasks",
        "embedded_continuation",
        *text,
        "--limit",
        "20",
        "--act",
        "--controls",
    ]
    assert command(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    (header,) = [line for line in shown if line.startswith("task")]
    assert all(word in header for word in ("chance", "acc_norm", "logprob", "margin", "acc - vanilla"))
    rows = {line.split()[1]: line for line in shown if line.startswith("embedded_continuation")}
    assert list(rows) == ["vanilla", "act-paper", "act-corrected", "random-heads", "equal-mass"]
    assert all("0.250" in line and "±" in line for line in rows.values())
    assert all("[" in line for name, line in rows.items() if name != "vanilla")
    assert shown[-1] == str(arm.evaluation_path("embedded_continuation"))
    record = arm.evaluation("embedded_continuation")
    assert record["conditions"]["act-paper"]["act"]["heads"] == sorted(heads["rules"]["paper"])
    assert record["conditions"]["act-paper"]["act"]["settings"]["alpha"] == 1.0


def test_an_ablation_is_one_command(searched, capsys):
    arm, text = searched
    arguments = ["eval", str(arm.root), "--tasks", "embedded_continuation", *text, "--limit", "8", "--act"]
    assert command([*arguments, "--ablate", "beta", "--name", "beta", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert list(found["conditions"]) == ["vanilla", "beta=0.7", "beta=0.5", "beta=0.4", "beta=0.3", "beta=0.1"]
    assert found["record"] == str(arm.evaluation_path("beta"))
    assert command([*arguments, "--ablate", "items", "--name", "items"]) == 0
    assert list(arm.evaluation("items")["conditions"]) == ["vanilla", "items=all"]


def test_heads_of_another_model_and_missing_ones_are_refused(searched, tmp_path, capsys):
    arm, text = searched
    arguments = ["eval", arm.root, "--tasks", "embedded_continuation", *text, "--act"]
    code, said = refused(capsys, *arguments, "--checkpoint", "8")
    assert code == 2
    assert "is of another model (arm/softmax-s0 at step 12, not arm/softmax-s0 at step 8)" in said
    shutil.rmtree(arm.heads_path.parent)
    code, said = refused(capsys, *arguments)
    assert code == 2
    assert f"{arm.heads_path}: there is no such file; make it with sinkpretrain calibrate {arm.root} --tasks T" in said


def test_items_of_the_search_are_no_test(searched, capsys):
    arm, text = searched
    arguments = ["eval", arm.root, "--tasks", "embedded_continuation", *text, "--limit", "8"]
    assert command([*map(str, arguments)]) == 0
    tested = arm.evaluation("embedded_continuation")["conditions"]["vanilla"]["tasks"]["embedded_continuation"]["items"]
    record = json.loads(arm.heads_path.read_text())
    record["tasks"]["embedded_continuation"]["hashes"][0] = tested["hash"][0]
    write_json(arm.heads_path, record)
    code, said = refused(capsys, *arguments, "--act")
    assert code == 3
    assert "1 test items are among the items that the heads were chosen on" in said


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tasks", "arc_easy", "--data-dir", "nowhere"], 3, "nowhere/arc_easy/calibration.jsonl: is missing"),
        (["--tasks", "arc_easy", "--data-dir", "nowhere", "--text", "t.txt"], 2, "--text: t.txt has no effect"),
        (["--tasks", "embedded", "--limit", "0"], 2, "--limit: 0 is out of range; allowed: >= 1"),
        (["--tasks", "embedded", "--fewshot", "-1"], 2, "--fewshot: -1 is out of range; allowed: >= 0"),
        (["--tasks", "embedded", "--rule", "paper"], 2, "need the heads of a search: add --act [HEADS.json]"),
        (["--tasks", "embedded", "--controls"], 2, "need the heads of a search"),
        (["--tasks", "embedded", "--act", "--controls", "--ablate", "beta"], 2, "--ablate: has no controls"),
        (["--tasks", "embedded", "--act"], 2, "act/heads.json: there is no such file; make it with sinkpretrain calib"),
        (["--tasks", "embedded", "--checkpoint", "all"], 2, "eval takes one; give a step or 'last'"),
        (["--tasks", "embedded", "--checkpoint", "7"], 5, "manifest.json is missing"),
        (["--tasks", "embedded", "--text", "none.txt"], 3, "none.txt: there is no such text"),
        (["--tasks", "mt_bench", "embedded", "--answers", "a.jsonl"], 2, "mt_bench goes alone, with --answers FILE"),
        (
            ["--tasks", "mt_bench", "--data-dir", "x", "--answers", "a.jsonl"],
            3,
            "x/mt_bench/test.jsonl: there is no",
        ),
        (["--tasks", "embedded", "--answers", "a.jsonl"], 2, "--answers: only mt_bench writes answers to a file"),
    ],
)
def test_bad_input_is_one_sentence(arm, capsys, arguments, code, message):
    found, said = refused(capsys, "eval", arm.root, *arguments)
    assert message in said
    assert found == code
    assert not arm.evaluations()


@pytest.mark.parametrize("verb", ["eval", "calibrate"])
@pytest.mark.parametrize("kind", ["opt", "gptj"])
def test_other_architectures_are_refused_by_name(arm, tmp_path, capsys, verb, kind):
    """ACT was published for these two as well; here it is defined for the Llama."""
    folder = tmp_path / f"{kind}-2.7b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    code, said = refused(capsys, verb, folder, "--tasks", "embedded")
    assert code == 2
    assert f"model_type '{kind}' is not one of llama, mistral; other architectures have other norms" in said
    assert "choose a model of the Llama family" in said


def test_without_the_harness_the_extra_is_named(arm, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None)
    code, said = refused(capsys, "eval", arm.root, "--tasks", "embedded")
    assert code == ConfigError.exit_code
    assert "scripts/install eval" in said


def test_mt_bench_is_answered_into_a_file(arm, tmp_path, capsys):
    (tmp_path / "data" / "mt_bench").mkdir(parents=True)
    rows = [{"question_id": number, "category": "writing", "turns": ["Say it.", "Again."]} for number in (81, 82)]
    (tmp_path / "data/mt_bench/test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    arguments = ["eval", str(arm.root), "--tasks", "mt_bench", "--data-dir", "data", "--answers", "answers.jsonl"]
    assert command(arguments) == 0
    shown = capsys.readouterr()
    assert "2 of 2 questions answered now" in shown.out
    assert "a plain 'User: ... Assistant:' format, since the model brought no chat template" in shown.err
    (one, two) = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert (one["question_id"], two["question_id"]) == (81, 82)
    assert one["model_id"] == "arm-softmax-s0-12-vanilla"
    assert command(arguments) == 0
    assert "0 of 2 questions answered now" in capsys.readouterr().out


def test_several_models_are_evaluated_in_one_command(arm, tmp_path, capsys):
    other = shutil.copytree(arm.root, tmp_path / "arm" / "softmax-s1")
    text = ["--text", str(write_documents(tmp_path / "text.jsonl")), "--limit", "4"]
    assert command(["eval", str(arm.root), str(other), "--tasks", "embedded_last_word", *text, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [one["about"]["model"] for one in found] == [model_identity(Run(path), 12) for path in (arm.root, other)]
    code, said = refused(capsys, "eval", arm.root, other, "--tasks", "embedded", "--act", "heads.json")
    assert code == 2
    assert "heads.json is of one model, and 2 were given" in said


def test_settings_of_act_can_be_changed(searched, capsys):
    arm, text = searched
    arguments = ["eval", str(arm.root), "--tasks", "embedded_last_word", *text, "--limit", "6", "--json"]
    assert command([*arguments, "--act", "--rule", "paper", "--act.beta", "0.1"]) == 0
    assert command([*arguments, "--rule", "all", *SEARCH]) == 0
    conditions = arm.evaluation("embedded_last_word")["conditions"]
    assert list(conditions) == [
        "vanilla",
        "act-paper beta=0.1",
        "all-heads first_layer=0 last_layer=1 alpha=1.0",
    ]
    settings = [entry["act"]["settings"] for entry in list(conditions.values())[1:]]
    assert [(one["alpha"], one["beta"]) for one in settings] == [(1.0, 0.1), (1.0, 0.4)]
    assert conditions["all-heads first_layer=0 last_layer=1 alpha=1.0"]["act"]["saw_sink"]
    code, said = refused(capsys, *arguments, "--act", "--act.gamma", "1")
    assert code == 2
    assert "act.gamma: unknown key" in said
    assert "has no effect without ACT" in refused(capsys, *arguments, "--act.beta", "1")[1]
    assert "--beta: unknown" in refused(capsys, *arguments, "--act", "--beta", "1")[1]
