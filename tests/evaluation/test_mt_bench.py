"""MT-Bench's questions answered in two turns, in the file that FastChat's judges read."""

import json
import shutil

import pytest
import torch

from sinkpretrain.calibration import Settings
from sinkpretrain.errors import DataError
from sinkpretrain.evaluation import mt_bench
from sinkpretrain.evaluation.chat import ChatTemplate, template_of
from sinkpretrain.evaluation.conditions import Condition, vanilla
from sinkpretrain.evaluation.encoding import encoder_of
from sinkpretrain.evaluation.mt_bench import Answerer, Asked, questions, write_answers
from sinkpretrain.model.load import load_model
from sinkpretrain.runs import Run

ASKED = [Asked(number=81 + number, turns=[f"Write {number}.", f"Shorten {number}."]) for number in range(10)]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"
ALL = Condition(name="all-heads", heads=[(0, 0), (1, 1)], settings=Settings(first_layer=0, last_layer=1, alpha=1.0))


@pytest.fixture
def answerer(small_run):
    """A model of the small run's shape with random weights: its own says spaces."""

    def make(template=None, condition=None):
        model, tokenizer = load_model(small_run.root)
        draw = torch.Generator().manual_seed(4)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data = 0.5 * torch.randn(parameter.shape, generator=draw)
        encoder = encoder_of(small_run, tokenizer)
        chat = template and ChatTemplate(text=template, bos="", eos="\n")
        return Answerer(
            model=model, encoder=encoder, template=chat, condition=condition or vanilla(), name="small", new_tokens=6
        )

    return make


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_has_fastchats_fields(answerer, tmp_path):
    path = tmp_path / "answers" / "small.jsonl"
    assert write_answers(answerer(), ASKED, path) == 10
    rows = lines(path)
    assert [row["question_id"] for row in rows] == list(range(81, 91))
    assert {frozenset(row) for row in rows} == {
        frozenset({"question_id", "answer_id", "model_id", "choices", "tstamp"})
    }
    assert all(row["model_id"] == "small" and row["choices"][0]["index"] == 0 for row in rows)
    assert all(len(row["choices"][0]["turns"]) == 2 for row in rows)
    assert len({row["answer_id"] for row in rows}) == 10
    assert any(turn for row in rows for turn in row["choices"][0]["turns"])


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_the_second_turn_reads_the_first_and_its_answer(answerer, monkeypatch, template):
    prompts = []
    generate = mt_bench.generate

    def watched(model, given, **options):
        prompts.extend(given)
        return generate(model, given, **options)

    monkeypatch.setattr(mt_bench, "generate", watched)
    model = answerer(template)
    model = Answerer(**{**model.__dict__, "new_tokens": 3})
    (row,) = model.answer(ASKED[:1])
    first = row["choices"][0]["turns"][0]
    said = [{"role": "user", "content": "Write 0."}, {"role": "assistant", "content": first}]
    whole = model.prompt([*said, {"role": "user", "content": "Shorten 0."}])
    room = model.model.config.context_length - 3
    assert prompts[1] == model.encoder.encode(whole)[-room:]
    if template is None:
        assert whole == f"User: Write 0.\nAssistant: {first}\nUser: Shorten 0.\nAssistant:"
        assert "plain" in model.format
    else:
        assert whole == f"<user>Write 0.\n<assistant>{first}\n<user>Shorten 0.\n<assistant>"


def test_answered_questions_are_skipped(answerer, tmp_path):
    path = tmp_path / "small.jsonl"
    write_answers(answerer(), ASKED[:4], path)
    before = path.read_text()
    path.write_text(before + '{"question_id": 85, "answer')  # the process was killed while it wrote
    told = []
    assert write_answers(answerer(), ASKED, path, told.append) == 6
    assert told == [4, 6]
    assert path.read_text().startswith(before)
    assert [row["question_id"] for row in lines(path)] == list(range(81, 91))
    assert write_answers(answerer(), ASKED, path) == 0
    other = Answerer(**{**answerer().__dict__, "name": "other"})
    with pytest.raises(DataError, match="has answers of small, not of other"):
        write_answers(other, ASKED, path)


def test_act_changes_answers_and_leaves_the_model_as_it_was(answerer):
    plain, calibrated = answerer(), answerer(condition=ALL)
    said = [[row["choices"] for row in one.answer(ASKED[:8])] for one in (plain, calibrated, plain)]
    assert said[0] == said[2]
    assert said[0] != said[1]
    assert all(block.attention.weights.calibration is None for block in calibrated.model.blocks)


def test_questions_of_fastchat_and_of_the_hub(tmp_path):
    path = tmp_path / "mt_bench" / "test.jsonl"
    path.parent.mkdir()
    rows = [{"question_id": 81, "category": "writing", "turns": ["a", "b"]}, {"prompt_id": 82, "prompt": ["c", "d"]}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert questions(tmp_path) == [Asked(number=81, turns=["a", "b"]), Asked(number=82, turns=["c", "d"])]
    path.write_text(json.dumps({"question_id": 81, "turns": ["only one"]}) + "\n")
    with pytest.raises(DataError, match="wanted: question_id and two turns"):
        questions(tmp_path)
    with pytest.raises(DataError, match="there is no such file; it has a question a line"):
        questions(tmp_path / "nowhere")


def test_the_template_comes_with_an_imported_model(small_run, tmp_path):
    run = Run(shutil.copytree(small_run.root, tmp_path / "small"))
    encoder = encoder_of(run, load_model(run.root)[1])
    assert template_of(run, encoder) is None
    folder = tmp_path / "hub"
    folder.mkdir()
    source = {"source": str(folder), "bos_id": 0, "eos_id": 0, "separator_id": 0}
    run.source_path.write_text(json.dumps(source))
    assert template_of(run, encoder) is None
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert template_of(run, encoder).text == TEMPLATE
    (folder / "chat_template.jinja").write_text("newer")
    assert template_of(run, encoder).text == "newer"
    run.source_path.write_text(json.dumps({**source, "chat_template": "kept"}))
    assert template_of(run, encoder).text == "kept"
    assert template_of(run, encoder).eos == "<|endoftext|>"
