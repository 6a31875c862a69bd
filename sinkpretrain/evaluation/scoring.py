"""Log-probabilities of answers given prompts; a prompt is computed once for all its answers.

A question becomes one sequence, its prompt followed by its answers side by side: each answer sees the prompt and itself
alone, and its positions count on from the prompt's. Inside `calibrate`, sinks are those that the rows of the prompt
show.

Shapes use B batch, T positions, C model width, N answer tokens that are predicted, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sinkpretrain.model.llama import Llama

PADDED = -1  # the document of padding
SCORED = 2048  # answer tokens whose logits exist at a time


@dataclass(frozen=True, kw_only=True)
class Question:
    """Token ids of a prompt and of the answers to score; none of them empty.

    `receivers` says which tokens of the prompt receive attention, for the redistributions of ACT that need it.
    """

    prompt: list[int]
    answers: list[list[int]]
    receivers: list[bool] | None = None


@dataclass(frozen=True)
class Score:
    """The summed natural-log probability of an answer, and whether each of its tokens was the most probable one."""

    logprob: float
    greedy: bool


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A batch of questions: one sequence each, padded on the right."""

    tokens_BT: Tensor
    document_BT: Tensor
    row_N: Tensor  # which sequence predicts each answer token,
    place_N: Tensor  # from which position,
    target_N: Tensor  # the token itself,
    answer_N: Tensor  # and to which answer it belongs, counted over the batch
    answers: list[int]  # how many each question has
    receivers_BT: Tensor | None

    @classmethod
    def of(cls, questions: Sequence[Question], context_length: int, device: torch.device) -> "Packed":
        """The questions as one batch; prompts are cut from the left where an answer would not fit."""
        sequences = [_sequence(question, context_length) for question in questions]
        longest = max(len(sequence.tokens) for sequence in sequences)
        parts = [(row, place, target, answer) for row, of in enumerate(sequences) for place, target, answer in of.asked]
        before = [0]
        for question in questions:
            before.append(before[-1] + len(question.answers))
        row_N, place_N, target_N, answer_N = torch.tensor(parts, device=device).T
        receivers = None
        if any(question.receivers is not None for question in questions):
            receivers = torch.tensor([_padded(of.receivers, longest, False) for of in sequences], device=device)
        return cls(
            tokens_BT=torch.tensor([_padded(of.tokens, longest, 0) for of in sequences], device=device),
            document_BT=torch.tensor([_padded(of.documents, longest, PADDED) for of in sequences], device=device),
            row_N=row_N,
            place_N=place_N,
            target_N=target_N,
            answer_N=answer_N + torch.tensor(before, device=device)[row_N],
            answers=[len(question.answers) for question in questions],
            receivers_BT=receivers,
        )

    def scores(self, model: Llama, x_BTC: Tensor) -> list[list[Score]]:
        """The scores from the residual stream after the last block; logits exist of answer tokens alone."""
        count = sum(self.answers)
        logprob_A = torch.zeros(count, dtype=torch.float64)
        greedy_A = torch.ones(count, dtype=torch.bool)
        for first in range(0, len(self.row_N), SCORED):
            some = slice(first, first + SCORED)
            logits_NV = model.logits(x_BTC[self.row_N[some], self.place_N[some]][None])[0].float()
            logprob_NV = logits_NV.log_softmax(dim=-1)
            target_N1, answer_N = self.target_N[some, None], self.answer_N[some].cpu()
            logprob_A.index_add_(0, answer_N, logprob_NV.gather(1, target_N1)[:, 0].cpu().double())
            wrong_N = (logprob_NV.argmax(dim=-1) != target_N1[:, 0]).cpu()
            greedy_A[answer_N[wrong_N]] = False
        found = iter([Score(*pair) for pair in zip(logprob_A.tolist(), greedy_A.tolist(), strict=True)])
        return [[next(found) for _ in range(answers)] for answers in self.answers]


@torch.no_grad()
def score(
    model: Llama,
    questions: Sequence[Question],
    batch_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
    receive: Callable[[Tensor | None], None] | None = None,
) -> list[list[Score]]:
    """The scores of all answers, in order.

    Args:
        model: in eval mode.
        questions: an answer that does not fit the context behind its prompt cuts the prompt from the left, as
            lm-evaluation-harness does.
        batch_tokens: positions of a batch, padding included; a longer sequence is a batch of its own.
        progress: told how many questions are done, after each batch.
        receive: told the receiving positions of each batch before its pass (`Act.receivers_BT`).
    """
    context, device = model.config.context_length, model.embedding.weight.device
    parts = [part for question in questions for part in _that_fit(question, context)]
    found: dict[int, list[Score]] = {}
    for batch in batches([question_length(part) for part in parts], batch_tokens):
        packed = Packed.of([parts[index] for index in batch], context, device)
        if receive is not None:
            receive(packed.receivers_BT)
        x_BTC = model.residual(packed.tokens_BT, packed.document_BT, shared_prompt=True)
        found |= dict(zip(batch, packed.scores(model, x_BTC), strict=True))
        if progress is not None:
            progress(len(found) * len(questions) // len(parts))
    scores = iter([score for index in range(len(parts)) for score in found[index]])
    return [[next(scores) for _ in question.answers] for question in questions]


def question_length(question: Question) -> int:
    """Positions of a question's sequence."""
    return len(question.prompt) + sum(len(answer) - 1 for answer in question.answers)


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences by length, the longest first, so many at a time that padded they have that many tokens."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _that_fit(question: Question, context_length: int) -> list[Question]:
    """The question, or where its prompt has to be cut, a question for each answer: each cuts as much as it needs."""
    if len(question.prompt) + max(map(len, question.answers)) - 1 <= context_length:
        return [question]
    return [replace(question, answers=[answer]) for answer in question.answers]


@dataclass(frozen=True, kw_only=True)
class _Sequence:
    """One question's tokens and documents, and (place, target, answer) of each answer token that is predicted."""

    tokens: list[int]
    documents: list[int]
    asked: list[tuple[int, int, int]]
    receivers: list[bool]


def _sequence(question: Question, context_length: int) -> _Sequence:
    longest = max(map(len, question.answers))
    prompt = question.prompt[-max(context_length - (longest - 1), 1) :]
    receivers = (question.receivers or [False] * len(question.prompt))[-len(prompt) :]
    tokens, documents, asked = list(prompt), [0] * len(prompt), []
    for number, answer in enumerate(question.answers):
        places = [len(prompt) - 1, *range(len(tokens), len(tokens) + len(answer) - 1)]
        asked += [(place, target, number) for place, target in zip(places, answer, strict=True)]
        tokens += answer[:-1]
        documents += [number + 1] * (len(answer) - 1)
    return _Sequence(tokens=tokens, documents=documents, asked=asked, receivers=receivers)


def _padded(values: list, length: int, padding: object) -> list:  # type: ignore[type-arg]
    return values + [padding] * (length - len(values))
