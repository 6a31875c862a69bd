"""A checkpoint evaluated under conditions: what is recorded, what is refused, and what ACT changed."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from stock_tasks import answers_of, stock_task, write_documents, write_items

from sinkpretrain.calibration import Settings
from sinkpretrain.errors import ConfigError, DataError, SinkpretrainError
from sinkpretrain.evaluation import evaluate as evaluating
from sinkpretrain.evaluation import harness
from sinkpretrain.evaluation.conditions import ABLATIONS, Condition, ablation, all_heads, conditions_of, vanilla
from sinkpretrain.evaluation.encoding import encoder_of
from sinkpretrain.evaluation.evaluate import evaluate, model_identity
from sinkpretrain.evaluation.harness import SinkpretrainLM
from sinkpretrain.evaluation.heads import HeadsFile
from sinkpretrain.evaluation.table import table
from sinkpretrain.model import exporting
from sinkpretrain.model.load import load_model
from sinkpretrain.runs import Run

EMBEDDED = ["embedded_continuation", "embedded_last_word"]
EASY = Settings(first_layer=0, last_layer=1, alpha=1.0)  # about half of all positions are sinks
HEADS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of the small run, to keep records in."""
    return Run(shutil.copytree(small_run.root, tmp_path / "arm" / "softmax-s0"))


@pytest.fixture
def text(tmp_path):
    return {"text": write_documents(tmp_path / "text.jsonl"), "limit": 20}


def act(name="act-paper", heads=HEADS, settings=EASY):
    return Condition(name=name, rule="paper", heads=list(heads), settings=settings)


def outcomes(record, condition, task="embedded_continuation"):
    return record["conditions"][condition]["tasks"][task]["items"]


def test_a_record_has_every_item_under_every_condition(run, text, capsys):
    record = evaluate(run, 12, ["embedded"], [vanilla(), act()], **text)
    assert record == json.loads(run.evaluation_path("embedded").read_text())
    about = record["about"]
    assert about["model"] == model_identity(run, 12)
    assert (
        about["model"]["sha256"]
        == json.loads((run.checkpoints / "step_00000012" / "manifest.json").read_text())["files"]["model.safetensors"]
    )
    assert (about["tasks"], about["fewshot"], about["limit"], about["text"]) == (EMBEDDED, 0, 20, str(text["text"]))
    found = record["conditions"]["act-paper"]
    assert found["act"]["heads"] == [list(head) for head in HEADS]
    assert found["act"]["settings"]["alpha"] == 1.0
    assert found["act"]["saw_sink"]
    for task in EMBEDDED:
        assert outcomes(record, "vanilla", task)["hash"] == outcomes(record, "act-paper", task)["hash"]
        assert outcomes(record, "vanilla", task)["logprob"] != outcomes(record, "act-paper", task)["logprob"]
    continuation = found["tasks"]["embedded_continuation"]
    assert continuation["chance"] == 0.25
    assert set(continuation["metrics"]) == {"acc", "acc_norm", "logprob", "margin"}
    assert record["conditions"]["vanilla"]["act"] is None
    shown = table(record)
    assert all(word in shown for word in ("chance", "±", "0.250", "act-paper: 4 heads, 4 of them met a sink"))
    assert "vanilla: " in capsys.readouterr().err


def test_conditions_are_added_and_replaced(run, text):
    before = evaluate(run, 12, EMBEDDED[:1], [vanilla(), act()], **text)
    other = act(settings=Settings(first_layer=0, last_layer=1, alpha=1.5))
    record = evaluate(run, 12, EMBEDDED[:1], [act("beta"), other], **text)
    assert list(record["conditions"]) == ["vanilla", "act-paper", "beta"]
    assert record["conditions"]["vanilla"] == before["conditions"]["vanilla"]
    assert record["conditions"]["beta"]["tasks"] == before["conditions"]["act-paper"]["tasks"]
    assert record["conditions"]["act-paper"]["act"]["settings"]["alpha"] == 1.5


def test_no_sink_is_recorded_as_such_and_no_head_needs_no_pass(run, text, monkeypatch, caplog):
    blind = Settings(first_layer=0, last_layer=1, alpha=1e6)
    record = evaluate(run, 12, EMBEDDED[:1], [vanilla(), act("blind", settings=blind)], **text)
    assert "blind is a no-op: none of the 4 heads met a later sink" in caplog.text
    assert record["conditions"]["blind"]["act"]["saw_sink"] == []
    assert outcomes(record, "blind") == outcomes(record, "vanilla")
    monkeypatch.setattr(harness, "score", None)
    record = evaluate(run, 12, EMBEDDED[:1], [act("none", heads=[])], **text)
    assert record["conditions"]["none"]["act"]["heads"] == []
    assert outcomes(record, "none") == outcomes(record, "vanilla")
    assert "blind: no-op" in table(record)
    assert "none: no head was chosen" in table(record)


def test_act_that_no_pass_meets_is_refused(run, text, monkeypatch):
    """As where the model that answers is not the one that is calibrated: nothing would tell its answers from others."""
    calibrated = evaluating.applied
    other, _ = load_model(run.root, 12)
    monkeypatch.setattr(evaluating, "applied", lambda model, *more: calibrated(other, *more))
    with pytest.raises(SinkpretrainError, match="act-paper: the passes over the items reached no calibrated layer"):
        evaluate(run, 12, EMBEDDED[:1], [vanilla(), act()], **text)
    assert list(run.evaluation("embedded_continuation")["conditions"]) == ["vanilla"]


def test_another_evaluation_is_refused_by_what_differs(run, text):
    evaluate(run, 12, EMBEDDED[:1], [vanilla()], **text)
    with pytest.raises(ConfigError, match=r"limit was 20, is 5\); give --name"):
        evaluate(run, 12, EMBEDDED[:1], [vanilla()], **{**text, "limit": 5})
    with pytest.raises(ConfigError, match=r"model\.step was 12, is 8"):
        evaluate(run, 8, EMBEDDED[:1], [vanilla()], **text)
    evaluate(run, 12, EMBEDDED[:1], [vanilla()], **{**text, "limit": 5}, name="five")
    assert run.evaluations() == ["embedded_continuation", "five"]
    with pytest.raises(ConfigError, match="none: has no heads and so vanilla's outcomes; evaluate `vanilla` before it"):
        evaluate(run, 12, EMBEDDED[:1], [act("none", heads=[])], **text, name="other")


def test_items_that_chose_the_heads_are_no_test(run, text):
    record = evaluate(run, 12, EMBEDDED[:1], [vanilla()], **text)
    with pytest.raises(DataError, match="2 test items are among the items that the heads were chosen on"):
        evaluate(run, 12, EMBEDDED[:1], [act()], **text, calibrated_on=outcomes(record, "vanilla")["hash"][3:5])


def test_an_evaluation_goes_on_from_its_cache(run, text, tmp_path, monkeypatch):
    arguments = {**text, "cache": tmp_path / "cache" / "answers"}
    record = evaluate(run, 12, EMBEDDED[:1], [vanilla(), act()], **arguments)
    run.evaluation_path("embedded_continuation").unlink()
    score = harness.score
    monkeypatch.setattr(harness, "score", None)
    assert evaluate(run, 12, EMBEDDED[:1], [vanilla(), act()], **arguments) == record
    assert record["conditions"]["act-paper"]["act"]["saw_sink"]
    monkeypatch.setattr(harness, "score", score)
    other = evaluate(run, 12, EMBEDDED[:1], [act(heads=[(1, 1)])], **arguments)
    assert outcomes(other, "act-paper") != outcomes(record, "act-paper"), "answers of other heads are not taken"


def test_what_sinks_lose_goes_to_the_question_or_to_the_choices(run, text, invented, monkeypatch):
    seen = []
    score = harness.score

    def watched(model, questions, *rest, **more):
        seen.extend(questions)
        return score(model, questions, *rest, **more)

    monkeypatch.setattr(harness, "score", watched)
    parts = ("question_only", "choices_only")
    changed = {
        part: act(part, settings=Settings(first_layer=0, last_layer=1, alpha=1.0, redistribution=part))
        for part in parts
    }
    conditions = [vanilla(), *changed.values()]
    record = evaluate(run, 12, ["commonsense_qa"], conditions, data_dir=invented, limit=6)
    received = [outcomes(record, part, "commonsense_qa")["logprob"] for part in ("vanilla", *parts)]
    assert received[0] != received[1] != received[2]
    tokenizer = load_model(run.root)[1]
    rows = [json.loads(line) for line in (invented / "commonsense_qa/test.jsonl").read_text().splitlines()[:6]]
    texts = [
        tokenizer.decode(
            [token for token, inside in zip(question.prompt, question.receivers, strict=True) if inside]
        ).strip()
        for question in seen
        if question.receivers is not None
    ]
    assert {row["question"] for row in rows} <= set(texts)
    assert {"\n".join(row["choices"]["text"]) for row in rows} <= set(texts)
    with pytest.raises(ConfigError, match="its prompts have no choices of their own, so 'choices_only' has no meaning"):
        evaluate(run, 12, EMBEDDED[:1], [changed["choices_only"]], **text)


def test_solved_examples_are_the_same_under_every_condition(run, invented):
    """Otherwise the items of two conditions would be no pairs; `evaluate` refuses samples of another prompt."""
    options = {"data_dir": invented, "limit": 4}
    conditions = [vanilla(), act()]
    shot = evaluate(run, 12, ["commonsense_qa"], conditions, fewshot=1, name="shot", **options)
    plain = evaluate(run, 12, ["commonsense_qa"], conditions, **options)
    first, second = (outcomes(shot, name, "commonsense_qa")["hash"] for name in ("vanilla", "act-paper"))
    assert first == second == outcomes(plain, "vanilla", "commonsense_qa")["hash"]
    assert shot["about"]["fewshot"] == 1


@pytest.mark.parametrize(("bos", "begins"), [("none", False), ("document", True), ("window", True)])
def test_a_model_is_asked_as_it_was_trained(run, bos, begins):
    config = yaml.safe_load(run.config_path.read_text())
    config["data"]["bos"] = bos
    run.config_path.write_text(yaml.safe_dump(config))
    _, tokenizer = load_model(run.root)
    encoders = {asked: encoder_of(run, tokenizer, asked) for asked in ("auto", "none", "always")}
    assert {asked: encoder.encode("text")[0] == 0 for asked, encoder in encoders.items()} == {
        "auto": begins,
        "none": False,
        "always": True,
    }
    assert encoders["auto"].pair("", "text")[0] == [0]


def test_an_exported_model_has_the_same_numbers_in_the_stock_harness(run, tmp_path, monkeypatch):
    """What `auto` does is what stock lm-evaluation-harness does with the exported folder."""
    monkeypatch.setattr(exporting, "_check", lambda *_: None)  # the numbers are compared here
    config = yaml.safe_load(run.config_path.read_text())
    config["data"]["bos"] = "document"
    run.config_path.write_text(yaml.safe_dump(config))
    stock = HFLM(pretrained=str(exporting.export_hf(run, tmp_path / "hf")), device="cpu", batch_size=4, dtype="float32")
    model, tokenizer = load_model(run.root)
    path = write_items(tmp_path / "items.jsonl", 8)
    for name in ("arc_easy", "piqa"):
        mine, theirs = (
            [response[0] for sample in answers_of(one, name, stock_task(name, path))[0] for response in sample["resps"]]
            for one in (SinkpretrainLM(model, encoder_of(run, tokenizer)), stock)
        )
        assert [value for value, _ in mine] == pytest.approx([value for value, _ in theirs], abs=1e-4)
        assert [flag for _, flag in mine] == [flag for _, flag in theirs]


@pytest.fixture
def searched():
    """A head search over four heads: one never saw a sink, two raise accuracy, one of them more."""
    effects = {(0, 0): (0.02, 0.1), (0, 1): (-0.01, 0.3), (1, 0): (0.05, 0.0), (1, 1): (0.0, 0.0)}
    rows = [
        {"layer": layer, "head": head, "sink_share": 0.5 * (head + layer < 2), "accuracy": accuracy, "logprob": gain}
        for (layer, head), (accuracy, gain) in effects.items()
    ]
    return HeadsFile(
        model={},
        settings=EASY,
        tasks={"arc_easy": {"items": 400, "hashes": []}},
        items=400,
        layers=[0, 1],
        vanilla={},
        heads=rows,
        saw_sink=3,
        rules={"paper": [(0, 0), (1, 0)], "corrected": []},
    )


def test_the_conditions_of_a_head_search(searched):
    found = {one.name: one for one in conditions_of(searched, ("paper", "corrected", "all"), controls=True)}
    assert list(found) == ["vanilla", "act-paper", "act-corrected", "all-heads", "random-heads", "equal-mass"]
    assert found["act-paper"].heads == [(0, 0), (1, 0)]
    assert found["act-corrected"].changes_nothing
    assert found["all-heads"].heads == HEADS
    assert len(found["random-heads"].heads) == 2
    assert (1, 1) not in found["random-heads"].heads, "it never saw a sink"
    assert found["equal-mass"].heads == found["act-paper"].heads
    assert found["equal-mass"].settings.columns == "random"
    assert found["act-paper"].settings == EASY


def test_the_random_control_draws_from_all_heads_that_saw_a_sink(searched):
    """Whatever the rule chose: over seeds every pair of the three is drawn."""

    def drawn(seed, chosen):
        file = replace(searched, settings=replace(EASY, seed=seed), rules={"paper": chosen, "corrected": []})
        (found,) = (one.heads for one in conditions_of(file, ("paper",), controls=True) if one.name == "random-heads")
        return tuple(found)

    by_seed = [drawn(seed, [(0, 0), (1, 0)]) for seed in range(20)]
    assert set(by_seed) == {((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 1), (1, 0))}
    assert by_seed == [drawn(seed, [(0, 1), (1, 0)]) for seed in range(20)]


def test_the_papers_ablations(searched):
    fewer = {30: [(0, 0)], 100: [], 300: [(1, 0)], None: [(0, 0), (1, 0)]}
    by_name = {name: {one.name: one for one in ablation(name, searched, "paper", fewer.get)} for name in ABLATIONS}
    assert list(by_name["beta"]) == ["vanilla", "beta=0.7", "beta=0.5", "beta=0.4", "beta=0.3", "beta=0.1"]
    assert by_name["beta"]["beta=0.7"].settings.beta == 0.7
    assert by_name["alpha"]["alpha=7"].settings.alpha == 7
    assert by_name["method"]["method=inverse"].settings.method == "inverse"
    assert by_name["distribution"]["distribution=choices_only"].settings.redistribution == "choices_only"
    shares = {name: one.heads for name, one in by_name["share"].items()}
    assert shares["share=0%"] == []
    assert shares["share=40%"] == [(1, 0)], "the head that raises accuracy most comes first"
    assert shares["share=100%"] == [(1, 0), (0, 0)]
    assert {name: one.heads for name, one in by_name["items"].items()} == {
        "vanilla": [],
        "items=30": [(0, 0)],
        "items=100": [],
        "items=300": [(1, 0)],
        "items=all": [(0, 0), (1, 0)],
    }
    assert all(one.changes_nothing == (one.name == "vanilla") for one in by_name["beta"].values())
    with pytest.raises(ConfigError, match="'gamma' is not one of method, distribution, alpha, beta, share, items"):
        list(ablation("gamma", searched, "paper"))
    with pytest.raises(ConfigError, match="items needs the outcomes beside"):
        list(ablation("items", searched, "paper"))


def test_all_heads_are_those_of_the_layers_that_settings_allow(small_run):
    shape = small_run.config().model
    assert all_heads(shape, EASY).heads == HEADS
    with pytest.raises(ConfigError, match="of the model's 2 layers none is left to calibrate"):
        all_heads(shape, Settings())
