"""What came of each item of a task, from the samples that lm-evaluation-harness logs, and the means over items."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.errors import DataError
from sinkpretrain.evaluation.items import Item

Row = dict[str, float]

# Names that tasks give the same measures of a generated answer.
GENERATED = {"em": ("em", "exact_match", "exact"), "f1": ("f1",)}


def outcomes_of(task: Any, samples: Sequence[dict[str, Any]], items: Sequence[Item] | None = None) -> dict[str, Any]:
    """A task's part of an evaluation record: `n`, `chance`, `metrics` with their standard errors, and `items`.

    Args:
        task: of lm-evaluation-harness.
        samples: its logged samples, with the model's own answers; of several filters the first counts.
        items: the same items, in the same order. None: hashes are the harness's, for tasks whose items are not a prompt
            with answers.

    Raises:
        DataError: the samples are of other items, or the task measures nothing of an item by itself.
    """
    samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    if items is not None:
        for sample, item in zip(samples, items, strict=True):
            _refuse_other(sample, item)
    found = [_KINDS[task.OUTPUT_TYPE](task, sample) for sample in samples]
    columns = {name: [row[name] for row, _ in found] for name in found[0][0]}
    hashes = [sample["doc_hash"] for sample in samples] if items is None else [item.hash for item in items]
    return {
        "n": len(samples),
        "chance": float(np.mean([chance for _, chance in found])),
        "metrics": {name: list(mean_and_error(values)) for name, values in columns.items()},
        "items": {"hash": hashes, **columns},
    }


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; a single value has none."""
    array = np.asarray(values, dtype=np.float64)
    error = float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else None
    return float(array.mean()), error


def choice_outcome(logprobs: NDArray[np.float64], lengths: NDArray[np.float64], gold: Sequence[int]) -> Row:
    """The outcome of one item with given answers.

    `acc` whether the likeliest answer is right, `acc_norm` the same per byte of the answer; `logprob` of the right
    answer in nats, `margin` that minus the best wrong answer's. Where several are right, the best of them counts.

    Args:
        logprobs: summed log-probability of each answer.
        lengths: UTF-8 bytes of each answer.
        gold: which are right.
    """
    right = np.isin(np.arange(len(logprobs)), gold)
    best_right = logprobs[right].max()
    best_wrong = logprobs[~right].max() if not right.all() else best_right
    return {
        "acc": float(right[np.argmax(logprobs)]),
        "acc_norm": float(right[np.argmax(logprobs / lengths)]),
        "logprob": float(best_right),
        "margin": float(best_right - best_wrong),
    }


def _choices(task: Any, sample: dict[str, Any]) -> tuple[Row, float]:
    """Of a task with answers to choose from; chance is the share of right answers."""
    answers = task.doc_to_choice(sample["doc"])
    given = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    gold = [
        answers.index(one) if isinstance(one, str) else int(one)
        for one in (given if isinstance(given, list) else [given])
    ]
    logprobs = np.array([response[0][0] for response in sample["resps"][: len(answers)]], dtype=np.float64)
    lengths = np.array([len(answer.encode()) for answer in answers], dtype=np.float64)
    return choice_outcome(logprobs, lengths, gold), len(gold) / len(answers)


def _last_words(task: Any, sample: dict[str, Any]) -> tuple[Row, float]:
    """Of a task with one right continuation: `acc` is whether greedy generation would give it."""
    logprob, greedy = sample["resps"][0][0]
    return {"acc": float(greedy), "logprob": float(logprob)}, 0.0


def _rolling(task: Any, sample: dict[str, Any]) -> tuple[Row, float]:
    """Of whole texts: their log-probability."""
    return {"logprob": float(sample["resps"][0][0])}, 0.0


def _generated(task: Any, sample: dict[str, Any]) -> tuple[Row, float]:
    """Of generated answers: what the task itself measures of each."""
    row = {
        ours: float(sample[theirs])
        for ours, names in GENERATED.items()
        for theirs in names
        if isinstance(sample.get(theirs), int | float)
    }
    if not row:
        raise DataError(
            f"{task.config.task}: measures {', '.join(sample['metrics'])}, which are not numbers of an item by itself; "
            "allowed: exact_match and f1"
        )
    return row, 0.0


_KINDS: dict[str, Callable[[Any, dict[str, Any]], tuple[Row, float]]] = {
    "multiple_choice": _choices,
    "loglikelihood": _last_words,
    "loglikelihood_rolling": _rolling,
    "generate_until": _generated,
}


def _refuse_other(sample: dict[str, Any], item: Item) -> None:
    """Raise where a sample is not of this item: then hashes, spans and calibration items would not be its own."""
    prompt, answers = sample["arguments"][0][0], [arguments[1] for arguments in sample["arguments"]]
    asked = sample["arguments"][0][1]
    same = isinstance(asked, dict) or item.answers == answers[: len(item.answers)]
    if prompt != item.prompt or not same:
        raise DataError(
            f"{item.task}: item {sample['doc_id']} was asked with {prompt[-80:]!r}, and its hash is of "
            f"{item.prompt[-80:]!r}; the task gives other prompts each time"
        )
