"""Tasks made of text: what items are cut from it, that the halves share no document, and too little text."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from test_tasks_scored import Guesser, Oracle, scored

from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.embedded import MOST_ITEMS, EmbeddedText, embedded_text
from sinkpretrain.evaluation.items import chance, disjoint, items
from sinkpretrain.evaluation.tasks import TASK_SETS, load_tasks
from sinkpretrain.runs import Run

VOCABULARY = [first + rest for first in "bcdfgh" for rest in ("ank", "ell", "ing", "oast", "u", "ore,", "est.")]


def prose(number, words=40):
    """Invented documents, which begin with their number."""
    draw = random.Random(number)
    return [f"D{name} " + " ".join(draw.choice(VOCABULARY) for _ in range(words)) for name in range(number)]


@pytest.fixture(scope="module")
def text():
    return EmbeddedText(documents=prose(60), prompt_words=6, answer_words=4, items=60, seed=3)


@pytest.fixture(scope="module")
def loaded(text):
    return load_tasks(["embedded"], embedded=text)


def source(text, passage):
    """The documents that hold these words in a row."""
    return [number for number, whole in enumerate(text.documents) if passage in whole]


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_continuations(text, loaded, split):
    found = items(loaded["embedded_continuation"], split, None)
    assert len(found) == text.items
    for item in found:
        right = item.answers[item.gold]
        assert item.prompt + right in " ".join(text.documents)
        (own,) = source(text, item.prompt + right)
        assert len(item.prompt.split()) == 6 and [len(answer.split()) for answer in item.answers] == [4] * 4
        for number, answer in enumerate(item.answers):
            assert answer.startswith(" ") and (number == item.gold or own not in source(text, answer[1:]))
        assert (item.question_span, item.choices_span) == ((0, len(item.prompt)), None)
    assert set(Counter(item.gold for item in found)) == {0, 1, 2, 3}


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_last_words(text, loaded, split):
    found = items(loaded["embedded_last_word"], split, None)
    assert len(found) == text.items
    for item in found:
        (word,) = item.answers
        assert word[0] == " " and word[1:].isalpha() and len(word) > 4
        assert 6 <= len(item.prompt.split()) < 10
        assert source(text, item.prompt + word)


@pytest.mark.parametrize("name", TASK_SETS["embedded"])
def test_halves_are_of_different_documents(text, loaded, name):
    halves = [items(loaded[name], split, None) for split in ("calibration", "test")]
    disjoint(*halves)
    cut_from = [
        {number for item in half for number in source(text, item.prompt + item.answers[item.gold])} for half in halves
    ]
    assert not cut_from[0] & cut_from[1]
    assert min(map(len, cut_from)) > 15
    tested = {number for item in halves[1] for answer in item.answers for number in source(text, item.prompt)}
    assert not tested & cut_from[0]


def test_the_same_arguments_give_the_same_items(text):
    def asked(given):
        return [given.rows(name) for name in TASK_SETS["embedded"]]

    reordered = replace(text, documents=[*text.documents[::-1], text.documents[0]])
    assert asked(text) == asked(reordered)
    assert asked(text) != asked(replace(text, seed=4))


def test_more_documents_do_not_move_one_to_the_other_half(text):
    more = replace(text, documents=[*text.documents, *("new " + document for document in text.documents)])
    for split, passages in text.passages.items():
        found = [passage.words for passage in more.passages[split]]
        assert all(passage.words in found for passage in passages)


def test_passages_do_not_overlap_and_fit(text):
    fitting = replace(text, fits=lambda prompt, answer: "bank" not in prompt and "dell" not in answer)
    assert 0 < fitting.available < text.available
    for passages in fitting.passages.values():
        assert not any("bank" in passage.words[:6] or "dell" in passage.words[6:] for passage in passages)
    counts = Counter(passage.document for passages in text.passages.values() for passage in passages)
    assert max(counts.values()) <= 41 // 10


@pytest.mark.parametrize("name", TASK_SETS["embedded"])
def test_an_oracle_scores_1_and_a_guesser_chance(name):
    large = EmbeddedText(documents=prose(120), prompt_words=6, answer_words=4, items=150)
    task = load_tasks([name], embedded=large, fewshot=1)[name]
    assert scored(Oracle(name), task)["acc"] == 1.0
    by_chance = chance(task, items(task, "test", None))
    assert by_chance == (0.25 if name == "embedded_continuation" else 0.0)
    tolerance = 4 * math.sqrt(by_chance * (1 - by_chance) / 150)
    assert abs(scored(Guesser(name), task)["acc"] - by_chance) <= tolerance


@pytest.mark.parametrize("name", TASK_SETS["embedded"])
@pytest.mark.parametrize("shots", [0, 1, 3, 5])
def test_solved_examples(text, name, shots):
    task = load_tasks([name], embedded=text, fewshot=shots)[name]
    for item in items(task, "test", 5):
        *solved, own = item.prompt.split("\n\n")
        assert len(solved) == shots
        assert all(source(text, example) for example in solved)
        assert item.prompt[slice(*item.question_span)] == own


@pytest.mark.parametrize("name", TASK_SETS["embedded"])
def test_too_little_text_is_refused(text, name):
    with pytest.raises(DataError, match=rf"{name}: the text gives \d+ passages of 6 \+ 4 words for .* 500 are needed"):
        replace(text, items=500).rows(name)
    with pytest.raises(DataError, match="of two or more documents"):
        replace(text, documents=prose(2, words=3000), items=20).rows(name)
    with pytest.raises(DataError, match="the text gives 0 passages"):
        replace(text, documents=["too short"]).rows(name)


def test_documents_that_are_too_alike_are_refused(text):
    same = [f"D{number} which is one two three very much alike" for number in range(80)]
    with pytest.raises(DataError, match="documents are too alike"):
        replace(text, documents=same, items=20, prompt_words=4, answer_words=4).rows("embedded_continuation")


def test_held_out_text_of_a_run(small_run):
    text = embedded_text(small_run)
    store = TokenStore.open(small_run.config().data.store)
    assert len(text.documents) == len(store.document_starts("validation"))
    held_out = store.tokenizer().decode(store.tokens("validation")[:].tolist())
    assert all(document in held_out for document in text.documents)
    assert text.prompt_words >= 2 * text.answer_words
    tokenizer, context = store.tokenizer(), small_run.config().model.context_length
    for task in load_tasks(["embedded"], embedded=text).values():
        for item in items(task, "test", None):
            assert all(len(tokenizer.encode(item.prompt + answer).ids) < context for answer in item.answers)


def test_text_of_a_file(small_run, tmp_path):
    for number, whole in enumerate(prose(200)):
        (tmp_path / f"{number}.txt").write_text(whole)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "validation_fraction: 0.5\nsources: [{name: files, path: '*.txt'}]\ntokenizer: {name: train, vocab_size: 300}\n"
    )
    text = embedded_text(small_run, recipe, seed=5)
    assert sorted(text.documents) == sorted(prose(200))
    assert text.seed == 5
    assert text.items == min(MOST_ITEMS, text.available)


def test_an_imported_model_has_no_text_of_its_own(small_run, tmp_path):
    folder = tmp_path / "imported"
    folder.mkdir()
    lines = small_run.config_path.read_text().splitlines()
    kept = [line for line in lines if "store:" not in line]
    assert len(kept) == len(lines) - 1
    (folder / "config.yaml").write_text("\n".join(kept))
    with pytest.raises(ConfigError, match="an imported model has no held-out text; name some with --text FILE"):
        embedded_text(Run.open(folder))
