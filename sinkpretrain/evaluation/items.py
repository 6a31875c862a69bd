"""Items of a task as lm-evaluation-harness asks them, with what ACT needs to know of them.

An item's hash says what it asks, whatever its case, its white space and its number of solved examples, so calibration
and test items can be kept apart.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.own_task import Doc, normalised
from sinkpretrain.evaluation.tasks import FEWSHOT_SEED, name_of

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question: lm-evaluation-harness's requests are (prompt, answers[i]).

    Of a task that generates text, the answers are what counts as right, and of one that asks for the likelihood of one
    text, that text. Spans are characters of `prompt`; None where the task does not say, or lists no choices.
    """

    task: str
    prompt: str
    answers: list[str]
    gold: int
    hash: str
    question_span: Span | None
    choices_span: Span | None


def items(task: Task, split: Literal["calibration", "test"], limit: int | None, seed: int = 0) -> list[Item]:
    """The first `limit` test items in lm-evaluation-harness's order, or as many calibration items drawn by `seed`.

    Calibration items come from the training split, each once; what is in the test split too is left out.

    Raises:
        ConfigError: a task without a calibration split, or one whose items are not a prompt and its answers.
    """
    task.set_fewshot_seed(FEWSHOT_SEED)
    if split == "test":
        return [_item(task, doc, content_hash(task, doc)) for _, doc in task.doc_iterator(limit=limit)]
    docs = _calibration_docs(task)
    tested = {content_hash(task, doc) for doc in task.eval_docs}
    found: dict[str, Item] = {}
    for number in Random(seed).sample(range(len(docs)), len(docs)):
        if limit is not None and len(found) >= limit:
            break
        hashed = content_hash(task, docs[number])
        if hashed not in tested:
            found[hashed] = _item(task, docs[number], hashed)
    return list(found.values())


def receiving_span(item: Item, part: str) -> Span:
    """The characters of the prompt that the redistribution `question_only` or `choices_only` gives to.

    Raises:
        ConfigError: the prompt has no such part.
    """
    span, what = {
        "question_only": (item.question_span, "question"),
        "choices_only": (item.choices_span, "choices"),
    }[part]
    if span is None:
        raise ConfigError(f"{item.task}: its prompts have no {what} of their own, so '{part}' has no meaning there")
    return span


def chance(task: Task, items: Sequence[Item]) -> float:
    """The accuracy of guessing: the mean of 1/answers, or 0 where the answer is not chosen from several."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0
    return sum(1 / len(item.answers) for item in items) / len(items)


def disjoint(calibration: Sequence[Item], test: Sequence[Item]) -> None:
    """Refuse calibration items that are test items too.

    Raises:
        DataError: how many, and one of them.
    """
    tested = {item.hash for item in test}
    shared = [item for item in calibration if item.hash in tested]
    if shared:
        example = " ".join(shared[0].prompt.split())[-200:]
        raise DataError(
            f"{len(shared)} of {len(calibration)} calibration items are test items too, for example of "
            f"{shared[0].task}: {example!r}; take calibration items from elsewhere"
        )


def content_hash(task: Task, doc: Doc) -> str:
    """SHA-256 of the item's prompt without solved examples, its answers and the right one, all `normalised`."""
    prompt, answers, gold = _asked(task, doc, fewshot=0)
    parts = [prompt, *answers, answers[gold]]
    return hashlib.sha256("\n".join(map(normalised, parts)).encode()).hexdigest()


def _item(task: Task, doc: Doc, hashed: str) -> Item:
    prompt, answers, gold = _asked(task, doc, task.config.num_fewshot or 0)
    question, choices = _spans(task, doc, prompt)
    return Item(
        task=name_of(task),
        prompt=prompt,
        answers=answers,
        gold=gold,
        hash=hashed,
        question_span=question,
        choices_span=choices,
    )


def _asked(task: Task, doc: Doc, fewshot: int) -> tuple[str, list[str], int]:
    """The prompt, the answers and the index of the right one, as lm-evaluation-harness builds them."""
    context = task.fewshot_context(doc, num_fewshot=fewshot, gen_prefix=task.doc_to_prefix(doc))
    if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "generate_until") or not isinstance(context, str):
        raise ConfigError(f"{name_of(task)}: its items are not one prompt with answers; choose another task")
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "generate_until":
        texts = target if isinstance(target, list) else [target]
        return context, [f"{task.config.target_delimiter}{text}" for text in texts], 0
    answers = [request.args[1] for request in _requests(task, doc, context)]
    if task.OUTPUT_TYPE == "loglikelihood":
        return context, answers, 0
    choices = task.doc_to_choice(doc)
    right = target[0] if isinstance(target, list) else target
    return context, answers[: len(choices)], choices.index(right) if isinstance(right, str) else int(right)


def _requests(task: Task, doc: Doc, context: str) -> Iterator[Instance]:
    built = task.construct_requests(doc=doc, ctx=context, metadata=(task.config.task, 0, 1))
    yield from built if isinstance(built, list) else [built]


def _calibration_docs(task: Task) -> Any:
    if task.has_training_docs():
        return task.training_docs()
    if task.has_validation_docs() and task.has_test_docs():
        return task.validation_docs()
    raise ConfigError(f"{name_of(task)}: has no split beside the tested one to calibrate on; choose another task")


def _spans(task: Task, doc: Doc, prompt: str) -> tuple[Span | None, Span | None]:
    """Where the item's question and its listed choices stand in the prompt."""
    layout = (task.config.metadata or {}).get("layout")
    if layout is None:
        return None, None
    text = task.doc_to_text(doc)
    listed = re.escape("\n".join(task.doc_to_choice(doc))) if "CHOICES" in layout else ""
    found = re.fullmatch(layout.replace("CHOICES", listed), text, flags=re.DOTALL)
    assert found is not None, f"{name_of(task)}: its layout {layout!r} does not fit {text!r}"
    assert prompt.endswith(text), f"{name_of(task)}: the prompt does not end with the item"
    first = len(prompt) - len(text)
    spans = {name: (first + found.start(name), first + found.end(name)) for name in found.groupdict()}
    return spans["question"], spans.get("choices")
