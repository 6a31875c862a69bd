"""ACT's head search: each head that meets a sink is calibrated alone, on items that the test does not have.

The outcome is exact, and costs far less than one evaluation a head: of each item only heads that see a sink in its
prompt are tried, since no other changes anything; a head of layer l goes on from the residual stream that block l
reads, which no calibration of that layer changes; an item's prompt is computed once for all its answers; and the heads
of a layer share batches.

Shapes use B batch, T positions, C model width, H query heads, I items, J heads that may be calibrated.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkpretrain.attention.base import Mask
from sinkpretrain.calibration import Settings
from sinkpretrain.calibration.act import applied
from sinkpretrain.evaluation.scoring import Packed, Question, Score, question_length
from sinkpretrain.files import write_arrays
from sinkpretrain.model.llama import Llama
from sinkpretrain.records import read_arrays
from sinkpretrain.taps import record

Arrays = dict[str, NDArray[Any]]

# The residual streams of so many items are kept for all layers meanwhile; also what an interruption loses.
ITEMS_AT_A_TIME, TOKENS_AT_A_TIME = 16, 1024


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What calibrating each head alone does to each item; heads in the order of `heads`, items as they were given."""

    heads: list[tuple[int, int]]
    saw_JI: NDArray[np.bool_]  # whether the head met a sink in the item's prompt; where not, nothing changes
    accuracy_I: NDArray[np.float64]  # of the model as it is: 1 where the right answer is the most probable one
    logprob_I: NDArray[np.float64]  # of the right answer, nats
    margin_I: NDArray[np.float64]  # that, less the best other answer's
    accuracy_JI: NDArray[np.float64]  # changes, with each head calibrated
    logprob_JI: NDArray[np.float64]
    margin_JI: NDArray[np.float64]

    @classmethod
    def joined(cls, heads: list[tuple[int, int]], parts: Sequence[Arrays]) -> "Outcomes":
        """The outcomes of all items from those of their batches."""
        names = [field.name for field in fields(cls) if field.name != "heads"]
        return cls(heads=heads, **{name: np.concatenate([part[name] for part in parts], axis=-1) for name in names})

    def first(self, items: int) -> "Outcomes":
        """The outcomes of the first items alone."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "heads"}
        return Outcomes(heads=self.heads, **{name: array[..., :items] for name, array in given.items()})


@dataclass(frozen=True, kw_only=True)
class Search:
    """A head search over questions with the index of their right answers; finished batches are found in `folder`."""

    model: Llama
    settings: Settings
    questions: Sequence[Question]
    golds: Sequence[int]
    folder: Path
    fingerprint: str  # of the model
    batch_tokens: int = 4096
    progress: Callable[[int], None] = lambda items: None

    @property
    def heads(self) -> list[tuple[int, int]]:
        """The heads that may be calibrated."""
        return self.settings.heads(self.model.config.n_layers, self.model.config.n_heads)

    def run(self) -> Outcomes:
        """The outcomes of all items; what was found before an interruption is not computed again."""
        parts = []
        for some in self._batches():
            path = self.folder / f"{self._key(some)}.npz"
            if not path.exists():
                found = self._outcomes(self.questions[some], self.golds[some])
                write_arrays(path, found)
            parts.append(read_arrays(path, "the same command, after deleting it"))
            self.progress(some.stop)
        return Outcomes.joined(self.heads, parts)

    def _batches(self) -> Iterator[slice]:
        """Items in their order, a few at a time: more items later have the same batches, but for the last."""
        first = tokens = 0
        for place, question in enumerate(self.questions):
            length = question_length(question)
            if place > first and (place - first == ITEMS_AT_A_TIME or tokens + length > TOKENS_AT_A_TIME):
                yield slice(first, place)
                first, tokens = place, 0
            tokens += length
        if self.questions:
            yield slice(first, len(self.questions))

    def _key(self, some: slice) -> str:
        """A name for what a batch of items depends on: the model, the settings and the items."""
        asked = [(question.prompt, question.answers) for question in self.questions[some]]
        parts = [self.fingerprint, asdict(self.settings), asked, list(self.golds[some])]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    @torch.no_grad()
    def _outcomes(self, questions: Sequence[Question], golds: Sequence[int]) -> Arrays:
        """The outcomes of a batch of items, by name."""
        heads = self.heads
        packed = self._packed(questions)
        neutral = replace(self.settings, method="act", redistribution="proportional", columns="sinks", beta=1.0)
        with applied(self.model, "all", neutral) as act, record(self.model, "resid_in") as taps:
            x_BTC = self.model.residual(packed.tokens_BT, packed.document_BT, shared_prompt=True)
        before = graded(packed.scores(self.model, x_BTC), golds)
        saw_JI = np.ones((len(heads), len(questions)), dtype=np.bool_)
        if self.settings.needs_sinks:
            saw_JI = np.stack([act.sinks[layer][:, head].any(dim=-1).cpu().numpy() for layer, head in heads])
        after = np.repeat(before[:, None], len(heads), axis=1)
        for layer, rows, items in self._tries(saw_JI, questions):
            chosen = [heads[row][1] for row in rows]
            scores = self._with_one_head(layer, chosen, [questions[item] for item in items], taps["resid_in"], items)
            after[:, rows, items] = graded(scores, [golds[item] for item in items])
        names = ("accuracy", "logprob", "margin")
        changes = {f"{name}_JI": (after - before[:, None])[index] for index, name in enumerate(names)}
        return {"saw_JI": saw_JI, **{f"{name}_I": before[index] for index, name in enumerate(names)}, **changes}

    def _tries(
        self, saw_JI: NDArray[np.bool_], questions: Sequence[Question]
    ) -> Iterator[tuple[int, list[int], list[int]]]:
        """Batches of (head, item) pairs of one layer, items of like length together: layer, rows of `saw_JI`, items."""
        n_heads = self.model.config.n_heads
        lengths = [question_length(question) for question in questions]
        for place, layer in enumerate(self.settings.layers(self.model.config.n_layers)):
            pairs = np.argwhere(saw_JI[place * n_heads : (place + 1) * n_heads]).tolist()
            pairs.sort(key=lambda pair: (-lengths[pair[1]], pair[1]))
            while pairs:
                fitting = max(self.batch_tokens // lengths[pairs[0][1]], 1)
                some, pairs = pairs[:fitting], pairs[fitting:]
                yield layer, [place * n_heads + head for head, _ in some], [item for _, item in some]

    def _with_one_head(
        self, layer: int, heads: list[int], questions: Sequence[Question], resid_in: dict[int, Tensor], items: list[int]
    ) -> list[list[Score]]:
        """The scores of questions, each with one head of a layer calibrated, going on from that layer's input."""
        packed = self._packed(questions)
        batch, tokens = packed.tokens_BT.shape
        chosen_BH = torch.zeros(batch, self.model.config.n_heads, dtype=torch.bool, device=packed.tokens_BT.device)
        chosen_BH[torch.arange(batch), heads] = True
        x_BTC = resid_in[layer][items, :tokens]
        mask = Mask(tokens, x_BTC.device, packed.document_BT, shared_prompt=True)
        with applied(self.model, [(layer, head) for head in set(heads)], self.settings) as act:
            act.seams[layer].chosen = chosen_BH
            act.receivers_BT = packed.receivers_BT
            return packed.scores(self.model, self.model.through_blocks(x_BTC, mask, first=layer))

    def _packed(self, questions: Sequence[Question]) -> Packed:
        return Packed.of(questions, self.model.config.context_length, self.model.embedding.weight.device)


def graded(scores: Sequence[Sequence[Score]], golds: Sequence[int]) -> NDArray[np.float64]:
    """Accuracy, log-probability of the right answer, and its margin over the best other one, [3, items].

    Where there is one answer, accuracy is whether it is the greedy one, and there is no margin: it is 0.
    """
    graded = []
    for of_answers, gold in zip(scores, golds, strict=True):
        logprobs = [score.logprob for score in of_answers]
        others = [logprob for index, logprob in enumerate(logprobs) if index != gold]
        is_right = int(np.argmax(logprobs)) == gold if others else of_answers[gold].greedy
        graded.append((float(is_right), logprobs[gold], logprobs[gold] - max(others) if others else 0.0))
    return np.array(graded).T
