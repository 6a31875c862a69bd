"""Tasks made of held-out text, which need no dataset and no network: the right continuation, and the last word."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from sinkpretrain.data.store import TokenStore
from sinkpretrain.data.text import MOST_TOKENS, read_text
from sinkpretrain.data.tokenizer import load_tokenizer
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.runs import Run

MOST_ITEMS, FEWEST_ITEMS = 500, 20  # a split of `embedded_text`
LONGEST_PROMPT, LONGEST_ANSWER = 64, 16  # words
TOKENS_PER_WORD, MARGIN = 2.0, 1.25  # allowed for at least, and over the mean
ANSWER_SHARE = 4  # a quarter of the words and tokens is the answer's
OTHERS, MOST_TRIES = 3, 1000  # continuations from elsewhere, and draws to find them
LAST_WORD = re.compile(r"([A-Za-z]{4,})[.,;:!?]?")  # long enough to be seldom a function word


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Words in a row of one document."""

    document: int
    words: list[str]


@dataclass(frozen=True, kw_only=True)
class EmbeddedText:
    """Documents, and how items are cut from them: `items` a split, which a document's hash decides.

    A passage is `prompt_words` and `answer_words` words, parted by single spaces, that `fits` accepts as prompt and
    answer. The same arguments give the same items.
    """

    documents: list[str]
    prompt_words: int
    answer_words: int
    items: int
    seed: int = 0
    fits: Callable[[str, str], bool] = lambda prompt, answer: True

    @property
    def available(self) -> int:
        """Items a split that the text is enough for."""
        return min(len(passages) for passages in self.passages.values())

    @cached_property
    def passages(self) -> dict[str, list[Passage]]:
        """Passages by split that do not overlap, in the order of their documents' hashes."""
        hashed = sorted((hashlib.sha256(text.encode()).digest(), text) for text in set(self.documents))
        found: dict[str, list[Passage]] = {"calibration": [], "test": []}
        length = self.prompt_words + self.answer_words
        for number, (digest, text) in enumerate(hashed):
            words = text.split()
            for first in range(0, len(words) - length + 1, length):
                passage = Passage(document=number, words=words[first : first + length])
                asked = self._last_word(passage) is not None
                if asked and self.fits(self._prompt(passage), self._continuation(passage)):
                    found["test" if digest[0] % 2 else "calibration"].append(passage)
        return found

    def rows(self, task: str) -> dict[str, list[dict[str, Any]]]:
        """The items of one task by split, with the fields that its task file reads.

        Raises:
            DataError: too little text.
        """
        make = {"embedded_continuation": self._continuations, "embedded_last_word": self._last_words}[task]
        rows = {}
        for split, passages in self.passages.items():
            if len(passages) < self.items or len({passage.document for passage in passages}) < 2:
                raise DataError(
                    f"{task}: the text gives {len(passages)} passages of {self.prompt_words} + {self.answer_words} "
                    f"words for {split}, and {self.items} are needed, of two or more documents; "
                    "give more text with --text FILE"
                )
            random = Random(f"{self.seed} {split}")
            rows[split] = list(make(random.sample(passages, self.items), passages, random))
        return rows

    def _continuations(
        self, chosen: Sequence[Passage], passages: Sequence[Passage], random: Random
    ) -> Iterator[dict[str, Any]]:
        for passage in chosen:
            own, others = self._continuation(passage), self._others(passage, passages, random)
            gold = random.randrange(OTHERS + 1)
            yield {
                "passage": self._prompt(passage),
                "continuations": [*others[:gold], own, *others[gold:]],
                "gold": gold,
            }

    def _others(self, passage: Passage, passages: Sequence[Passage], random: Random) -> list[str]:
        """Different continuations of other documents."""
        found = {self._continuation(passage): None}
        for _ in range(MOST_TRIES):
            other = random.choice(passages)
            if other.document != passage.document:
                found[self._continuation(other)] = None
            if len(found) > OTHERS:
                return list(found)[1:]
        raise DataError("embedded_continuation: the text's documents are too alike; give other text with --text FILE")

    def _last_words(self, chosen: Sequence[Passage], _: Sequence[Passage], __: Random) -> Iterator[dict[str, Any]]:
        for passage in chosen:
            last = self._last_word(passage)
            assert last is not None
            found = LAST_WORD.fullmatch(passage.words[last])
            assert found is not None
            yield {"passage": " ".join(passage.words[:last]), "word": found[1]}

    def _prompt(self, passage: Passage) -> str:
        return " ".join(passage.words[: self.prompt_words])

    def _continuation(self, passage: Passage) -> str:
        return " ".join(passage.words[self.prompt_words :])

    def _last_word(self, passage: Passage) -> int | None:
        """The place of the last word, among those of the continuation, that can be asked for."""
        places = range(len(passage.words) - 1, self.prompt_words - 1, -1)
        return next((place for place in places if LAST_WORD.fullmatch(passage.words[place])), None)


def embedded_text(run: Run, text: Path | None = None, *, seed: int = 0) -> EmbeddedText:
    """The run's held-out documents, or those of a file or recipe, in passages that fit the run's context.

    Raises:
        ConfigError: an imported model, and no text; or a recipe that is wrong.
        DataError: no such text, or too little.
    """
    tokenizer, tokens, documents = _documents(run, text)
    context = run.config().model.context_length - 1  # a model may want a first token of its own
    per_word = max(TOKENS_PER_WORD, MARGIN * tokens / max(1, sum(len(document.split()) for document in documents)))
    words = int(context / per_word)
    answer_words = max(1, min(LONGEST_ANSWER, words // ANSWER_SHARE))
    answer_tokens = context // ANSWER_SHARE

    def fits(prompt: str, answer: str) -> bool:
        lengths = [len(tokenizer.encode(part).ids) for part in (prompt, " " + answer)]
        return lengths[0] <= context - answer_tokens and lengths[1] <= answer_tokens

    made = EmbeddedText(
        documents=documents,
        prompt_words=max(1, min(LONGEST_PROMPT, words - answer_words)),
        answer_words=answer_words,
        items=FEWEST_ITEMS,
        seed=seed,
        fits=fits,
    )
    return replace(made, items=max(FEWEST_ITEMS, min(MOST_ITEMS, made.available)))


def _documents(run: Run, text: Path | None) -> tuple[Tokenizer, int, list[str]]:
    """The run's tokenizer, the number of tokens, and the documents that they decode to."""
    store = run.config().data.store
    if text is None and not store:
        raise ConfigError(f"{run.root}: an imported model has no held-out text; name some with --text FILE")
    tokenizer: Tokenizer = TokenStore.open(store).tokenizer() if store else load_tokenizer(run.tokenizer_path)
    if text is None:
        opened = TokenStore.open(store)
        separator, stream = opened.separator, opened.tokens("validation")[:MOST_TOKENS]
    else:
        separator = tokenizer.get_vocab_size()  # no token of the text is that
        stream = read_text(text, tokenizer, separator).stream
    between = np.flatnonzero(stream == separator)
    pieces = [stream[first + 1 : last] for first, last in itertools.pairwise(between)]
    return tokenizer, len(stream), tokenizer.decode_batch([piece.tolist() for piece in pieces])
