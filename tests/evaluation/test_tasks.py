"""Task files: names, where items come from, prompts to the letter, and what can go wrong."""

import json
from functools import partial

import pytest
import yaml
from invented_items import ROWS, WORDS, right_answer, rows, write_rows
from lm_eval.tasks import TaskManager
from lm_eval.tasks.hellaswag.utils import preprocess

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation import tasks as module
from sinkpretrain.evaluation.items import items
from sinkpretrain.evaluation.tasks import FILES, OWN, TASK_SETS, expand, load_tasks, name_of, read_task_file

FOUR = "by boat 0\non foot 0\nin a cart 0\nnot at all 0"
ENDING = "Complete the following sentence with an appropriate ending.\n"
SQUAD = (
    "Answer question using information in the preceding background paragraph. If there is not enough information "
    'provided, answer with "Not in background."\n\nTitle: History of Accra\n\nBackground: Accra was founded by Ada '
    "the 0th.\nQ: is no question.\n\nQ: Who founded Accra, 0?\n\nA:"
)
SENTIMENT = "Classify the sentiment of the user's message into one of the following categories: "
PROMPTS = {
    "hellaswag": ENDING + "Packing a bag: Somebody from Accra opens a bag. Year 0 She\n"
    "by boat 0. again.\non foot 0. again.\nin a cart 0. again.\nnot at all 0. again.\nAnswer:",
    "arc_easy": f"{ENDING}How did they leave Accra in year 0?\n{FOUR}\nAnswer:",
    "arc_challenge": f"{ENDING}How did they leave Accra in year 0?\n{FOUR}\nAnswer:",
    "piqa": f"{ENDING}To leave Accra in year 0,\nby boat 0\non foot 0\nAnswer:",
    "openbookqa": f"{ENDING}How did they leave Accra in year 0?\n{FOUR}\nAnswer:",
    "copa": ENDING
    + "The road to Accra was closed in year 0 because\nsnow fell 0 times.\nthe sun shone 0 times.\nAnswer:",
    "commonsense_qa": f"{ENDING}How did they leave Accra in year 0?\n{FOUR}\nAnswer:",
    "mmlu": "The following are multiple choice questions (with answers) about high school biology.\n"
    f"What grows in Accra in year 0?\n{FOUR}\nAnswer:",
    "sst2": SENTIMENT + "'positive' or 'negative'.\n\nSentence: no Accra is like Accra number 0 .\nSentiment:",
    "sst5": SENTIMENT + "'terrible', 'negative', 'neutral', 'positive', or 'great'.\n\n"
    "Sentence: no Accra is like Accra number 0 .\nSentiment:",
    "mr": "Classify the sentiment of the movie's review into one of the following categories: 'positive' or "
    "'negative'.\n\nReview: no Accra is like Accra number 0 .\nSentiment:",
    "ag_news": "Classify the news articles into the categories of 'World', 'Sports', 'Business', or 'Technology'.\n\n"
    "Article: no Accra is like Accra number 0 .\nCategory:",
    "trec": "Classify the given questions into the following categories of 'Description', 'Entity', 'Expression', "
    "'Person', 'Number', or 'Location'.\n\nQuestion: no Accra is like Accra number 0 .\nType:",
    "cb": "Read the following paragraph and determine if the hypothesis is true.\n\n"
    "Premise: He said Accra has 0 gates. It has. Hypothesis: Accra has 0 gates. Answer:",
    "boolq": "Read the text and answer the question by True or False.\n\n"
    "Text: Accra -- Accra has 0 gates. Question: how many? Question: does Accra have 0 gates?\nAnswer:",
    "squad_v1": SQUAD,
    "squad_v2": SQUAD,
}


def test_every_task_file_has_a_name_and_a_prompt_here():
    files = {path.stem for path in FILES.glob("[!_]*.yaml")}
    assert files == set(OWN) == {*ROWS, *TASK_SETS["embedded"]}
    assert set(PROMPTS) == set(ROWS)
    assert all(read_task_file(FILES / f"{name}.yaml")["task"] == f"act_{name}" for name in files)


@pytest.mark.parametrize("name", ROWS)
def test_prompt_and_answers_are_those_of_the_paper(name, invented):
    task = load_tasks([name], data_dir=invented)[name]
    for number, (item, row) in enumerate(zip(items(task, "test", 12), rows(name, 0, 12), strict=True)):
        assert item.task == name
        assert item.answers[item.gold] == " " + right_answer(name, row)
        if name in WORDS:
            assert item.answers == [f" {word}" for word in WORDS[name]]
        if number == 0:
            assert item.prompt == PROMPTS[name]


@pytest.mark.parametrize("name", ROWS)
def test_solved_examples_are_counted_solved_and_never_the_item(name, invented):
    task = load_tasks([name], data_dir=invented)[name]
    without = items(task, "calibration", 4)
    texts = {task.doc_to_text(doc): right_answer(name, doc) for doc in rows(name, 300, 340)}
    solved = [f"{text} {answer}\n\n" for text, answer in texts.items()]
    for shots in (0, 1, 3, 5):
        task.set_config("num_fewshot", shots)
        for item, alone in zip(items(task, "calibration", 4), without, strict=True):
            assert item.hash == alone.hash
            (own,) = (text for text in texts if alone.prompt.endswith(text))
            instruction = alone.prompt.removesuffix(own)
            assert item.prompt.startswith(instruction) and item.prompt.endswith(own)
            between = item.prompt[len(instruction) : len(item.prompt) - len(own)]
            shown = [example for example in solved if example in between]
            assert len(shown) == shots
            assert sum(map(len, shown)) == len(between)
            assert own not in between


def test_solved_examples_do_not_depend_on_what_was_asked_before(invented):
    task = load_tasks(["mr"], data_dir=invented, fewshot=3)["mr"]
    assert task.config.num_fewshot == 3
    first = task.fewshot_context(task.eval_docs[0], 3)
    asked = items(task, "test", 9)
    assert first == asked[0].prompt
    task.set_fewshot_seed(module.FEWSHOT_SEED)
    for item, doc in reversed(list(zip(asked, task.eval_docs, strict=False))):
        assert task.fewshot_context(doc, 3) == item.prompt
    assert len({item.prompt.partition("Review:")[2][:40] for item in asked}) > 4
    task.set_fewshot_seed(7)
    assert task.fewshot_context(task.eval_docs[0], 3) != asked[0].prompt


def test_solved_examples_of_mmlu_share_the_subject(invented):
    task = load_tasks(["mmlu"], data_dir=invented, fewshot=5)["mmlu"]
    subjects = {row["question"]: row["subject"].replace("_", " ") for row in rows("mmlu", 0, 340)}
    for item in items(task, "test", 6):
        shown = {subject for question, subject in subjects.items() if question in item.prompt}
        assert len(shown) == 1
        assert f"(with answers) about {shown.pop()}.\n" in item.prompt


def test_both_spellings_of_a_subject_read_the_same(invented):
    one, other = rows("mmlu", 0, 1)[0], {**rows("mmlu", 0, 1)[0], "subject": "high school biology"}
    task = load_tasks(["mmlu"], data_dir=invented)["mmlu"]
    assert one["subject"] == "high_school_biology"
    assert task.fewshot_context(one, 0) == task.fewshot_context(other, 0)


@pytest.mark.parametrize("text", ["Put [header] it [title] there", " [step] a  b [title] c [substeps] d ", "plain"])
def test_hellaswag_is_cleaned_as_in_lm_evaluation_harness(text, invented):
    task = load_tasks(["hellaswag"], data_dir=invented)["hellaswag"]
    doc = {**rows("hellaswag", 0, 1)[0], "ctx_a": text, "ctx_b": "SHE [title] runs", "endings": [text, text + "x"]}
    query = preprocess(f"{doc['activity_label']}: {text} {doc['ctx_b'].capitalize()}")
    assert task.doc_to_choice(doc) == [preprocess(ending).strip() for ending in doc["endings"]]
    assert task.doc_to_text(doc).startswith(query.strip() + "\n")


def test_sets_stand_for_their_tasks():
    assert expand(["squad", "arc_easy", "squad_v2", "lambada_openai"]) == [
        "squad_v1",
        "squad_v2",
        "arc_easy",
        "lambada_openai",
    ]
    assert len(expand(["paper"])) == 17


@pytest.fixture
def few_stock_tasks(tmp_path, monkeypatch, invented):
    """lm-evaluation-harness with two tasks, since it takes seconds to read all of its own."""
    files = {split: str(invented / "arc_easy" / f"{split}.jsonl") for split in ("test", "calibration")}
    for name in ("arc_easy", "only_stock"):
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "training_split": "calibration",
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices.text}}",
            "doc_to_target": "{{choices.label.index(answerKey)}}",
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(module, "TaskManager", partial(TaskManager, include_defaults=False, include_path=tmp_path))


def test_a_name_of_ours_wins_and_stock_names_the_other(few_stock_tasks, invented):
    found = load_tasks(["stock:arc_easy", "arc_easy", "only_stock"], data_dir=invented, fewshot=2)
    assert list(found) == ["stock:arc_easy", "arc_easy", "only_stock"] == [name_of(task) for task in found.values()]
    assert len({task.config.task for task in found.values()}) == 3
    prompts = {name: items(task, "test", 2) for name, task in found.items()}
    assert prompts["arc_easy"][0].prompt.startswith(ENDING)
    for name in ("stock:arc_easy", "only_stock"):
        assert [item.task for item in prompts[name]] == [name] * 2
        assert prompts[name][0].prompt.startswith("Question: ")
        assert prompts[name][0].prompt.count("Answer:") == 3
        assert prompts[name][0].question_span is None and prompts[name][0].choices_span is None
    found["only_stock"].build_all_requests(limit=2)
    for item, instance in zip(prompts["only_stock"], found["only_stock"].instances[::4], strict=True):
        assert not item.prompt.startswith(instance.args[0])  # its examples go on being drawn
    found["only_stock"].set_fewshot_seed(module.FEWSHOT_SEED)
    found["only_stock"].build_all_requests(limit=2)
    asked = [(item.prompt, answer) for item in prompts["only_stock"] for answer in item.answers]
    assert asked == [instance.args for instance in found["only_stock"].instances]


def test_lm_evaluation_harness_reads_the_files_itself(invented, tmp_path):
    """Under their own names, so that `lm-eval --include_path` runs them too."""
    named = TaskManager(include_defaults=False, include_path=FILES)
    assert named.all_subtasks == sorted(f"act_{name}" for name in OWN)
    ours = load_tasks(ROWS, data_dir=invented)
    for name, task in ours.items():
        entries = ("task", "dataset_path", "dataset_name", "training_split", "fewshot_split", "test_split")
        local = {key: getattr(task.config, key) for key in entries}
        files = {split: str(invented / name / f"{split}.jsonl") for split in ("calibration", "test")}
        local |= {"include": str(FILES / f"{name}.yaml"), "dataset_kwargs": {"data_files": files}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(local))
    manager = TaskManager(include_defaults=False, include_path=tmp_path)
    for name, task in ours.items():
        theirs = manager.load(f"act_{name}")["tasks"][f"act_{name}"]
        asked = [[(item.prompt, item.answers) for item in items(given, "test", 2)] for given in (task, theirs)]
        assert asked[0] == asked[1]
        assert task.dump_config()["doc_to_text"] == theirs.dump_config()["doc_to_text"]


@pytest.mark.parametrize("name", ROWS)
def test_requests_of_lm_evaluation_harness_are_prompt_and_answers(name, invented):
    task = load_tasks([name], data_dir=invented, fewshot=1)[name]
    found = items(task, "test", 5)
    task.build_all_requests(limit=5)
    asked = [instance.args for instance in task.instances]
    if name in TASK_SETS["squad"]:
        assert [prompt for prompt, _ in asked] == [item.prompt for item in found]
        assert asked[0][1]["until"] == ["\n"] and asked[0][1]["do_sample"] is False
    else:
        assert asked == [(item.prompt, answer) for item in found for answer in item.answers]


def test_an_unknown_name_is_refused_with_the_names_there_are(few_stock_tasks):
    message = r"there is no 'arc_eazy'. Did you mean 'arc_easy'\? Choose of hellaswag, .* sets multiple_choice"
    with pytest.raises(ConfigError, match=message):
        load_tasks(["arc_eazy"])


def test_missing_files_are_named(invented, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/piqa/calibration.jsonl: is missing"):
        load_tasks(["piqa"], data_dir=tmp_path / "nowhere")
    write_rows(tmp_path, "piqa", calibration=rows("piqa", 0, 3))
    with pytest.raises(DataError, match=r"piqa/test.jsonl: is missing"):
        load_tasks(["piqa"], data_dir=tmp_path)


def test_wrong_files_are_named(tmp_path):
    write_rows(tmp_path, "piqa", calibration=rows("piqa", 0, 3), test=rows("sst2", 0, 3))
    with pytest.raises(DataError, match=r"piqa: cannot be read as piqa \(.*; the fields must be"):
        load_tasks(["piqa"], data_dir=tmp_path)
    (tmp_path / "piqa/test.jsonl").write_text(json.dumps({"goal": "x"})[:-3])
    with pytest.raises(DataError, match=r"piqa: cannot be read as piqa"):
        load_tasks(["piqa"], data_dir=tmp_path)


def test_too_few_solved_examples_are_refused(tmp_path):
    write_rows(tmp_path, "mr", calibration=rows("mr", 0, 3), test=rows("mr", 2, 4))
    task = load_tasks(["mr"], data_dir=tmp_path, fewshot=3)["mr"]
    with pytest.raises(DataError, match="3 are asked for, the calibration split has 2"):
        items(task, "test", 1)


def test_an_embedded_task_needs_text():
    with pytest.raises(ConfigError, match="embedded_last_word: is made of text, and none was given"):
        load_tasks(["embedded_last_word"])


def test_without_a_connection_the_hub_is_named(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError, match=r"^arc_challenge: allenai/ai2_arc cannot be loaded .*--data-dir DIR$"):
        load_tasks(["arc_challenge"])


@pytest.mark.hub
@pytest.mark.parametrize("name", ROWS)
def test_the_hub_has_the_dataset(name):
    task = load_tasks([name], fewshot=1)[name]
    (item,) = items(task, "test", 1)
    assert item.question_span is not None
    assert 0 <= item.gold < len(item.answers)
    assert len(task.training_docs()) > 0
