"""Requests of lm-evaluation-harness put together by their prompt, which is then computed once for all of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sinkpretrain.errors import DataError
from sinkpretrain.evaluation.scoring import Question, Score

Request = tuple[tuple[str, ...] | None, list[int], list[int]]  # its texts, token ids of prompt and answer
Ids = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Group:
    """A question, and which requests asked for each of its answers."""

    question: Question
    numbers: list[list[int]]

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and all answers."""
        return len(self.question.prompt) + sum(map(len, self.question.answers))

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return sum(map(len, self.numbers))

    def by_request(self, scores: Sequence[Score]) -> Iterator[tuple[int, Score]]:
        """Each request with the score of the answer that it asked for."""
        for numbers, score in zip(self.numbers, scores, strict=True):
            yield from ((number, score) for number in numbers)


def shared(
    requests: Sequence[Request], context: int, receivers: Callable[[str], list[bool] | None] = lambda prompt: None
) -> list[Group]:
    """The requests as questions, the longest first; each different answer is asked once.

    A question has as many answers as a context holds: thousands may have the same prompt, an empty one.

    Args:
        requests: prompts may be without text.
        context: tokens that the model can read.
        receivers: gives the receiving tokens of a prompt by its text.

    Raises:
        DataError: a request without a token, or an answer longer than the context.
    """
    by_prompt: dict[Ids, dict[Ids, list[int]]] = {}
    texts: dict[Ids, str] = {}
    for number, (text, prompt, answer) in enumerate(requests):
        if not prompt or not answer:
            raise DataError(f"{text}: the prompt or the answer has no token; such a request cannot be scored")
        if len(answer) > context:
            raise DataError(f"an answer of {len(answer)} tokens is longer than the model's context of {context}")
        by_prompt.setdefault(tuple(prompt), {}).setdefault(tuple(answer), []).append(number)
        texts.setdefault(tuple(prompt), text[0] if text else "")
    groups = []
    for ids, numbers in by_prompt.items():
        received = receivers(texts[ids])
        for answers in in_runs(list(numbers), context, len):
            question = Question(prompt=list(ids), answers=[list(answer) for answer in answers], receivers=received)
            groups.append(Group(question=question, numbers=[numbers[answer] for answer in answers]))
    return sorted(groups, key=lambda group: -group.tokens)


def in_runs(entries: Sequence[T], limit: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Entries in a row whose sizes add up to a limit at most; at least one at a time."""
    run: list[T] = []
    total = 0
    for entry in entries:
        if run and total + size(entry) > limit:
            yield run
            run, total = [], 0
        run.append(entry)
        total += size(entry)
    if run:
        yield run
