"""Exact match and F1 of one SQuAD answer by the official evaluation script's rules, versions 1.1 and 2.0."""

from collections.abc import Mapping, Sequence
from typing import Any

from torchmetrics.functional.text.squad import squad

NO_ANSWER = "Not in background."  # what the prompt asks for, and what counts as the empty answer


def target(doc: Mapping[str, Any]) -> str:
    """The first accepted answer, or `NO_ANSWER`."""
    texts: Sequence[str] = doc["answers"]["text"]
    return texts[0] if texts else NO_ANSWER


def scores(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`em` and `f1` in [0, 1] of the generated answer, the best over the accepted ones.

    `NO_ANSWER` counts as the empty answer, in whatever case and punctuation; a question without an answer accepts the
    empty answer alone.
    """
    given = results[0]
    if _best(given, [NO_ANSWER])["em"] == 1.0:
        given = ""
    return _best(given, doc["answers"]["text"] or [""])


def _best(given: str, accepted: Sequence[str]) -> dict[str, float]:
    answers: dict[str, list[str] | list[int]] = {"text": list(accepted), "answer_start": [0] * len(accepted)}
    found = squad([{"prediction_text": given, "id": "item"}], [{"answers": answers, "id": "item"}])
    return {"em": float(found["exact_match"]) / 100, "f1": float(found["f1"]) / 100}
