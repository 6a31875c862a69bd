"""MT-Bench: its questions answered in two turns, into a file that FastChat's judges read. Nothing is judged here."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkpretrain.calibration import calibrate
from sinkpretrain.errors import DataError
from sinkpretrain.evaluation.chat import ChatTemplate
from sinkpretrain.evaluation.conditions import Condition
from sinkpretrain.evaluation.encoding import Encoder
from sinkpretrain.files import write_atomically
from sinkpretrain.model.generation import generate
from sinkpretrain.model.llama import Llama

NAME, TURNS = "mt_bench", 2
HUB = "HuggingFaceH4/mt_bench_prompts"
NEW_TOKENS = 1024  # FastChat's max_new_token
TOGETHER = 8  # questions answered at a time, and written when all of them are answered
PLAIN = "a plain 'User: ... Assistant:' format, since the model brought no chat template"
NEXT_TURN = "\nUser:"  # where a model without a chat template goes on by itself

Message = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question: what the user says in each turn."""

    number: int
    turns: list[str]


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A model that answers greedily, under a condition, in its own chat format or a plain one.

    Prompts that do not fit beside `new_tokens` are cut from the left.
    """

    model: Llama
    encoder: Encoder
    template: ChatTemplate | None
    condition: Condition
    name: str
    new_tokens: int = NEW_TOKENS

    @property
    def format(self) -> str:
        """How conversations are written, for people."""
        return PLAIN if self.template is None else "the model's own chat template"

    def answer(self, questions: Sequence[Asked]) -> Iterator[dict[str, Any]]:
        """The answers to questions, as FastChat's `model_answer` files have them."""
        histories: list[list[Message]] = [[] for _ in questions]
        for turn in range(TURNS):
            for history, question in zip(histories, questions, strict=True):
                history.append({"role": "user", "content": question.turns[turn]})
            for history, text in zip(histories, self._replies(histories), strict=True):
                history.append({"role": "assistant", "content": text})
        for history, question in zip(histories, questions, strict=True):
            said = [message["content"] for message in history if message["role"] == "assistant"]
            yield {
                "question_id": question.number,
                "answer_id": uuid.uuid4().hex,
                "model_id": self.name,
                "choices": [{"index": 0, "turns": said}],
                "tstamp": time.time(),
            }

    def prompt(self, history: Sequence[Message]) -> str:
        """A conversation up to where the model answers."""
        if self.template is not None:
            return self.template.render(history)
        lines = [f"{message['role'].capitalize()}: {message['content']}" for message in history]
        return "\n".join([*lines, "Assistant:"])

    def _replies(self, histories: Sequence[Sequence[Message]]) -> list[str]:
        context = self.model.config.context_length
        new_tokens = min(self.new_tokens, context // 2)
        prompts = [self.encoder.encode(self.prompt(history))[new_tokens - context :] for history in histories]
        decode = self.encoder.tokenizer.decode

        def stop(tokens: list[int]) -> bool:
            return self.template is None and NEXT_TURN in decode(tokens[-4 * len(NEXT_TURN) :])

        with self._calibrated():
            found = generate(self.model, prompts, new_tokens=new_tokens, stop=stop, eos=self.encoder.end)
        texts = [decode(ids, skip_special_tokens=True) for ids in found]
        return [(text.split(NEXT_TURN)[0] if self.template is None else text).strip() for text in texts]

    def _calibrated(self) -> AbstractContextManager[Any]:
        if self.condition.changes_nothing:
            return nullcontext()
        return calibrate(self.model, self.condition.heads, self.condition.settings)


def questions(data_dir: Path | None) -> list[Asked]:
    """The questions, from `<data_dir>/mt_bench/test.jsonl` with FastChat's fields or from the hub.

    Raises:
        DataError: the file is missing or has other fields, or the hub cannot be reached.
    """
    if data_dir is None:
        return [_asked(row, HUB) for row in _of_hub()]
    path = data_dir / NAME / "test.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; it has a question a line: question_id, category, turns")
    return [_asked(row, str(path)) for row in _lines(path)]


def write_answers(
    answerer: Answerer, asked: Sequence[Asked], path: Path, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Answer what the file has no answer to yet, adding to it; how many were new.

    Raises:
        DataError: the file has answers of another model.
    """
    done = _answered(path, answerer.name)
    remaining = [question for question in asked if question.number not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    progress(len(asked) - len(remaining))
    for first in range(0, len(remaining), TOGETHER):
        some = remaining[first : first + TOGETHER]
        lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answerer.answer(some)]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        progress(len(some))
    return len(remaining)


def _answered(path: Path, name: str) -> set[int]:
    """The questions with an answer in the file; a last line that was not written whole is dropped."""
    if not path.is_file():
        return set()
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = [json.loads(line) for line in whole.splitlines()]
    others = {row["model_id"] for row in rows} - {name}
    if others:
        raise DataError(
            f"{path}: has answers of {', '.join(sorted(others))}, not of {name}; give another --answers FILE"
        )
    if whole != text:
        write_atomically(path, whole.encode())
    return {row["question_id"] for row in rows}


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: has a line that is not JSON ({error})") from None


def _asked(row: dict[str, Any], where: str) -> Asked:
    """A question with FastChat's field names or the hub's."""
    number, turns = row.get("question_id", row.get("prompt_id")), row.get("turns", row.get("prompt"))
    if number is None or not isinstance(turns, list) or len(turns) < TURNS:
        raise DataError(f"{where}: a question has the fields {', '.join(row)}; wanted: question_id and two turns")
    return Asked(number=int(number), turns=[str(turn) for turn in turns])


def _of_hub() -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        return [dict(row) for row in load_dataset(HUB, split="train")]
    except Exception as error:  # the hub client's errors have no common class
        first = str(error).strip().split("\n")[0]
        raise DataError(f"{NAME}: {HUB} cannot be fetched ({first}); give its questions with --data-dir DIR") from error
