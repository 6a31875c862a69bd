"""Items: what is drawn, what an item's hash says, where its question and choices stand."""

import pytest
from invented_items import ROWS, rows, write_rows
from lm_eval.api.task import ConfigurableTask

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.items import chance, content_hash, disjoint, items
from sinkpretrain.evaluation.tasks import OWN, TASK_SETS, load_tasks

QUESTIONS = {
    "hellaswag": "Packing a bag: Somebody from Cusco opens a bag. Year 2 She",
    "piqa": "To leave Cusco in year 2,",
    "copa": "The road to Cusco was closed in year 2 because",
    "mmlu": "What grows in Cusco in year 2?",
    "cb": "He said Cusco has 2 gates. It has. Hypothesis: Cusco has 2 gates.",
    "boolq": "does Cusco have 2 gates?",
    "squad_v1": "Who founded Cusco, 2?",
    "squad_v2": "Who founded Cusco, 2?",
    **{name: "How did they leave Cusco in year 2?" for name in ("arc_easy", "arc_challenge", "openbookqa")},
    "commonsense_qa": "How did they leave Cusco in year 2?",
    **{name: "no Cusco is like Cusco number 2 ." for name in ("sst2", "sst5", "mr", "ag_news", "trec")},
}
LISTED = {name: "by boat 2\non foot 2\nin a cart 2\nnot at all 2" for name in TASK_SETS["multiple_choice"]} | {
    "hellaswag": "by boat 2. again.\non foot 2. again.\nin a cart 2. again.\nnot at all 2. again.",
    "piqa": "by boat 2\non foot 2",
    "copa": "snow fell 2 times.\nthe sun shone 2 times.",
}


def cut(text, span):
    return text[slice(*span)] if span else None


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("shots", [0, 2])
def test_spans_cut_out_the_question_and_the_choices_of_the_last_item(name, shots, invented):
    item = items(load_tasks([name], data_dir=invented, fewshot=shots)[name], "test", 3)[2]
    assert cut(item.prompt, item.question_span) == QUESTIONS[name]
    assert cut(item.prompt, item.choices_span) == LISTED.get(name)
    assert QUESTIONS[name] not in item.prompt[item.question_span[1] :]


def test_spans_of_awkward_text(tmp_path):
    mean = {"text": "Sentiment: \n Review: (a|b) CHOICES\nSentiment:", "label": 1}
    write_rows(tmp_path, "mr", test=[mean], calibration=rows("mr", 1, 4))
    (item,) = items(load_tasks(["mr"], data_dir=tmp_path, fewshot=1)["mr"], "test", 1)
    assert cut(item.prompt, item.question_span) == mean["text"]
    row = rows("piqa", 0, 1)[0] | {"goal": "one.*\ntwo", "sol1": "two", "sol2": "two\n(three"}
    write_rows(tmp_path, "piqa", test=[row], calibration=rows("piqa", 1, 4))
    (item,) = items(load_tasks(["piqa"], data_dir=tmp_path)["piqa"], "test", 1)
    assert cut(item.prompt, item.question_span) == "one.*\ntwo"
    assert cut(item.prompt, item.choices_span) == "two\ntwo\n(three"


def test_test_items_come_in_order_and_calibration_items_by_seed(invented):
    task = load_tasks(["piqa"], data_dir=invented)["piqa"]
    assert all(doc["goal"] in item.prompt for item, doc in zip(items(task, "test", 5), task.eval_docs, strict=False))
    assert items(task, "test", 5) == items(task, "test", None)[:5]
    drawn = items(task, "calibration", 10)
    assert drawn == items(task, "calibration", 10) == items(task, "calibration", None)[:10]
    other = items(task, "calibration", 10, seed=1)
    assert {item.hash for item in drawn} != {item.hash for item in other}
    assert len(items(task, "calibration", None)) == len({item.hash for item in items(task, "calibration", 99)}) == 40


def test_calibration_leaves_out_test_items_and_repeated_ones(tmp_path):
    tested = rows("mr", 0, 4)
    shouted = {**tested[1], "text": tested[1]["text"].upper().replace(" ", "  ")}
    write_rows(tmp_path, "mr", test=tested, calibration=[tested[0], shouted, *rows("mr", 4, 7), *rows("mr", 4, 6)])
    task = load_tasks(["mr"], data_dir=tmp_path)["mr"]
    found = items(task, "calibration", None)
    assert sorted(item.hash for item in found) == sorted(content_hash(task, doc) for doc in rows("mr", 4, 7))
    disjoint(found, items(task, "test", None))


def test_shared_items_are_refused_with_their_number(invented):
    tested = items(load_tasks(["piqa"], data_dir=invented)["piqa"], "test", 8)
    with pytest.raises(DataError, match=r"^3 of 8 calibration items are test items too, .* piqa: '.*year 5,.*Answer:'"):
        disjoint(tested, tested[5:])
    disjoint(tested[:5], tested[5:])
    disjoint(tested, [])


def test_the_hash_ignores_case_and_white_space_only(invented):
    task = load_tasks(["arc_easy"], data_dir=invented)["arc_easy"]
    doc = rows("arc_easy", 0, 1)[0]
    same = {**doc, "question": "  " + doc["question"].upper().replace(" ", "\n ")}
    texts = doc["choices"]["text"]
    reordered = {**doc, "choices": {**doc["choices"], "text": texts[::-1]}}
    others = [{**doc, "answerKey": "B"}, reordered, {**doc, "question": doc["question"] + "?"}]
    assert content_hash(task, same) == content_hash(task, doc)
    assert len({content_hash(task, other) for other in (doc, *others)}) == 4


def test_chance_is_the_mean_over_items(tmp_path):
    doc = rows("arc_easy", 0, 1)[0]
    three = {**doc, "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"}
    write_rows(tmp_path, "arc_easy", test=[doc, three], calibration=rows("arc_easy", 1, 2))
    task = load_tasks(["arc_easy"], data_dir=tmp_path)["arc_easy"]
    found = items(task, "test", None)
    assert found[1].gold == 2
    assert chance(task, found) == pytest.approx((1 / 4 + 1 / 3) / 2)


@pytest.mark.parametrize("name", [name for name in OWN if name in ROWS])
def test_real_calibration_and_test_items_are_disjoint(name, real_items):
    if not (real_items / name).is_dir():
        pytest.skip(f"there are no real items of {name}")
    task = load_tasks([name], data_dir=real_items)[name]
    calibration, tested = items(task, "calibration", 200), items(task, "test", 500)
    disjoint(calibration, tested)
    assert len({item.hash for item in calibration}) == 200
    for item in calibration:
        question = cut(item.prompt, item.question_span)
        assert question == question.strip() != ""
        if item.choices_span:
            assert cut(item.prompt, item.choices_span) == "\n".join(answer[1:] for answer in item.answers)


def stock(invented, **config):
    files = {"test": str(invented / "mr/test.jsonl")}
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
    return ConfigurableTask(config={"task": "other", "doc_to_text": "{{text}}", "num_fewshot": 0, **data, **config})


def test_stock_tasks_that_cannot_be_calibrated_on_are_refused(invented):
    word = stock(invented, output_type="loglikelihood", doc_to_target=" {{label}}")
    assert [item.answers for item in items(word, "test", 2)] == [[" 0"], [" 1"]]
    assert chance(word, items(word, "test", 2)) == 0.0
    with pytest.raises(ConfigError, match="other: has no split beside the tested one"):
        items(word, "calibration", 2)
    rolling = stock(invented, output_type="loglikelihood_rolling", doc_to_target="{{text}}")
    with pytest.raises(ConfigError, match="other: its items are not one prompt with answers"):
        items(rolling, "test", 2)
    inputs = stock(
        invented, output_type="multiple_choice", doc_to_text="{{label}}", doc_to_choice=["a", "b"], doc_to_target=" c"
    )
    with pytest.raises(ConfigError, match="not one prompt with answers"):
        items(inputs, "test", 2)
