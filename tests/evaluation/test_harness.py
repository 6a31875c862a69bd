"""Scored by stock lm-evaluation-harness and by ours, a model of the hub gives the same numbers item by item."""

import json
import random

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, CachingLM
from lm_eval.models.huggingface import HFLM
from stock_tasks import TEXTS, answers_of, stock_task, write_items
from tokenizers import Tokenizer, processors

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation import harness
from sinkpretrain.evaluation.chat import ChatTemplate
from sinkpretrain.evaluation.encoding import encoder_of
from sinkpretrain.evaluation.harness import SinkpretrainLM
from sinkpretrain.model.generation import generate
from sinkpretrain.model.importing import import_model
from sinkpretrain.model.load import load_model

CONTEXT, END = 64, "<|endoftext|>"
TOLERANCE = 1e-4  # nats, summed over an answer
LONG = [text for text in TEXTS if len(text) > 1000]


@pytest.fixture(scope="module", params=["plain", "begins with BOS"])
def both(request, tmp_path_factory, prose_store):
    """(ours, stock) over one random Llama, saved as transformers does and imported here."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(3)
    sizes = dict(vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = transformers.LlamaConfig(
        **sizes, num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=0
    )
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data * 6 if parameter.ndim == 2 else parameter.data + 0.3
    model.save_pretrained(folder)
    tokenizer = Tokenizer.from_str(prose_store.tokenizer().to_str())
    assert tokenizer.token_to_id(END) == 0
    if request.param != "plain":
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    run = import_model(folder, tmp_path_factory.mktemp("runs") / "theirs")
    loaded, own_tokenizer = load_model(run.root)
    ours = SinkpretrainLM(loaded, encoder_of(run, own_tokenizer), batch_tokens=300)
    assert ours.encoder.begins == (request.param != "plain")
    return ours, HFLM(pretrained=str(folder), device="cpu", batch_size=3, dtype="float32")


def requests(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=given, idx=0) for given in arguments]


def pairs():
    """Short, long and too long prompts, empty ones, trailing spaces, spelled special tokens, shared prompts."""
    draw = random.Random(1)
    found = [
        ("", " the"),
        ("", f"{END} value"),
        (f"{END}A for", " loop"),
        ("The ", "value"),
        ("a\n", "b c"),
        ("x", "é ü"),
    ]
    found += [(f"A {END} inside", " is text"), ("the same", " twice"), ("the same", " twice")]
    for length in (10, 40, 150, 400):
        for text in draw.sample(LONG, 3):
            cut = text.index(" ", length)
            found += [(text[:cut], text[cut : cut + more]) for more in (2, 5, 20)]
            found += [(text[:cut], " of the")]
    return found


def test_answers_have_the_same_log_probability(both):
    ours, _ = both
    asked = requests("loglikelihood", pairs())
    assert max(len(ours.tok_encode(request.args[0])) for request in asked) > CONTEXT
    mine, theirs = (model.loglikelihood(asked) for model in both)
    assert [flag for _, flag in mine] == [flag for _, flag in theirs]
    assert [value for value, _ in mine] == pytest.approx([value for value, _ in theirs], abs=TOLERANCE)
    assert len({round(value, 3) for value, _ in mine}) > len(asked) * 0.8


def test_the_greedy_answer_is_flagged(both):
    ours, _ = both
    scored = []
    for text in LONG[:40]:
        prompt = text[: text.index(" ", 60)]
        (ids,) = generate(ours.model, [ours.tok_encode(prompt)], new_tokens=1, eos=ours.eot_token_id)
        answer = ours.encoder.tokenizer.decode(ids)
        if answer and ours.encoder.pair(prompt, answer)[1] == ids:  # the text is not cut into other tokens
            scored += [(prompt, answer), (prompt, f"{answer} of it")]
    asked = requests("loglikelihood", scored)
    flags = [[flag for _, flag in model.loglikelihood(asked)] for model in both]
    assert flags[0] == flags[1]
    assert flags[0][::2] == [True] * (len(asked) // 2)
    assert len(asked) >= 6 and not any(flags[0][1::2])


def test_whole_texts_have_the_same_log_probability(both):
    ours, stock = both
    asked = requests("loglikelihood_rolling", [(TEXTS[0][:30],), (TEXTS[1][:700],), (TEXTS[2][:150],)])
    assert ours.loglikelihood_rolling(asked) == pytest.approx(stock.loglikelihood_rolling(asked), abs=TOLERANCE)


def test_generated_text_is_the_same(both):
    ours, stock = both
    arguments = {"until": ["\n", "th"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    given = [(text[:length], arguments) for text, length in zip(TEXTS[:6], (20, 90, 30, 300, 500, 25), strict=True)]
    given += [(TEXTS[7][:50], {"until": "e", "max_gen_toks": 5}), (TEXTS[8][:50], {"until": [], "max_gen_toks": 9})]
    asked = requests("generate_until", given)
    found = ours.generate_until(asked)
    assert found == stock.generate_until(asked)
    assert len(set(found)) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"do_sample": True, "temperature": 0.7}, "do_sample=True, temperature=0.7: only greedy generation is there"),
        ({"temperature": 0.2}, "temperature=0.2: only greedy"),
        ({"num_beams": 4}, "num_beams=4: only greedy"),
        ({"max_gen_toks": CONTEXT}, "max_gen_toks 64 leaves no room for a prompt in a context of 64 tokens"),
    ],
)
def test_what_is_not_greedy_is_refused(both, arguments, message):
    with pytest.raises(ConfigError, match=message):
        both[0].generate_until(requests("generate_until", [("text", {"until": ["\n"], **arguments})]))


def test_requests_that_cannot_be_scored_are_refused(both):
    with pytest.raises(DataError, match="gives no token of its own"):
        both[0].loglikelihood(requests("loglikelihood", [("text", "")]))
    with pytest.raises(DataError, match="longer than the model's context of 64"):
        both[0].loglikelihood(requests("loglikelihood", [("text", TEXTS[1][:600])]))


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_items(tmp_path_factory.mktemp("items") / "items.jsonl", 12)


@pytest.mark.parametrize("name", ["arc_easy", "piqa", "sciq"])
def test_stock_tasks_give_the_same_item_by_item(both, questions, name, capsys):
    results = []
    for model in both:
        task = stock_task(name, questions)
        task.set_config(key="num_fewshot", value=1 if name == "piqa" else 0)
        results.append(answers_of(model, name, task))
    (mine, mean), (theirs, their_mean) = results
    for one, other in zip(mine, theirs, strict=True):
        assert one["arguments"] == other["arguments"]
        assert [one["acc"], one["acc_norm"]] == [other["acc"], other["acc_norm"]]
        answered, expected = ([response[0] for response in sample["resps"]] for sample in (one, other))
        assert [flag for _, flag in answered] == [flag for _, flag in expected]
        assert [value for value, _ in answered] == pytest.approx([value for value, _ in expected], abs=TOLERANCE)
    assert mean["acc,none"] == their_mean["acc,none"]
    asked = sum(len(sample["arguments"]) for sample in mine)
    assert f"scoring: {asked} of {asked}" in capsys.readouterr().err


def test_a_prompt_is_computed_once_for_its_answers(both, monkeypatch):
    ours, _ = both
    seen = []
    score = harness.score
    monkeypatch.setattr(
        harness, "score", lambda model, some, *rest, **more: seen.extend(some) or score(model, some, *rest, **more)
    )
    asked = [(text[:40], answer) for text in LONG[:3] for answer in (" one", " of two", " the three", " one")]
    found = ours.loglikelihood(requests("loglikelihood", asked))
    assert [len(question.answers) for question in seen] == [3, 3, 3]
    assert found[0] == found[3]


def test_answers_reach_the_cache_of_the_harness_and_come_back(both, tmp_path, monkeypatch):
    ours, _ = both
    asked = requests("loglikelihood", [(text[:30], " value") for text in LONG[:4]])
    first = CachingLM(ours, str(tmp_path / "answers.db"))
    found = first.loglikelihood(asked)
    first.dbdict.close()
    monkeypatch.setattr(harness, "score", None)
    again = CachingLM(ours, str(tmp_path / "answers.db"))
    assert again.loglikelihood(asked) == found
    again.dbdict.close()
    ours.set_cache_hook(CacheHook(None))


def test_characters_of_a_prompt_are_found_in_its_tokens(both):
    encoder = both[0].encoder
    prompt = "Which café is open?\nthe first\nAnswer: "
    ids, _ = encoder.pair(prompt, "yes")
    span = (prompt.index("café"), prompt.index(" is"))
    covered = encoder.covered(prompt, span)
    assert len(covered) == len(ids)
    assert (
        encoder.tokenizer.decode([token for token, inside in zip(ids, covered, strict=True) if inside]).strip()
        == "café"
    )
    assert not any(encoder.covered(prompt, (0, 0)))


def test_chat_templates_are_the_models_own(both):
    ours, _ = both
    with pytest.raises(ConfigError, match="brought no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert ours.chat_template(False) is None
    ours.template = ChatTemplate(
        text="{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
        bos=END,
        eos=END,
    )
    said = [{"role": "user", "content": "Hello"}]
    assert ours.apply_chat_template(said) == f"{END}<user>Hello\n<assistant>"
    assert ours.apply_chat_template(said, add_generation_prompt=False) == f"{END}<user>Hello"
    assert ours.chat_template(True) == ours.template.text
    assert ours.tok_encode(ours.apply_chat_template(said)).count(0) == 1, "its own BOS, and no second one"
    ours.template = None
