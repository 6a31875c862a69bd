"""The record of a head search, `act/heads.json`: every head's effect, and the heads that each rule chooses.

I items, J heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.calibration import Settings
from sinkpretrain.errors import DataError
from sinkpretrain.evaluation.head_search import Outcomes
from sinkpretrain.evaluation.statistics import head_test
from sinkpretrain.mappings import build, to_mapping
from sinkpretrain.records import HEADS, read_record

FALSE_SHARE = 0.05  # of the heads that the rule `corrected` chooses, at most so many are expected to be false
HeadList = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class HeadsFile:
    """A head search: on which model and items, with which settings, what it found and what the rules choose.

    `rules` has the heads of `paper`, those that raise accuracy on the calibration items (2406.15765, section 4.3), and
    of `corrected`, those whose gain in the mean log-probability of the right answer is significant by a one-sided
    paired t-test with false-discovery control (Benjamini and Hochberg, at `FALSE_SHARE`) over heads that saw a sink.
    """

    model: dict[str, Any]
    settings: Settings
    tasks: dict[str, Any]
    items: int
    layers: list[int]
    vanilla: dict[str, float]
    heads: list[dict[str, Any]]
    saw_sink: int
    rules: dict[str, HeadList]

    def chosen(self, rule: str) -> HeadList:
        """The heads of a rule; of `all` every head that was searched."""
        return [(row["layer"], row["head"]) for row in self.heads] if rule == "all" else self.rules[rule]

    @property
    def all_with_sinks(self) -> HeadList:
        """The heads that saw a sink in any item."""
        return [(row["layer"], row["head"]) for row in self.heads if row["sink_share"] > 0]

    @property
    def hashes(self) -> list[str]:
        """Content hashes of the calibration items."""
        return [hashed for task in self.tasks.values() for hashed in task["hashes"]]

    def to_mapping(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self.__dict__, "settings": to_mapping(self.settings)}


def read_heads(path: Path) -> HeadsFile:
    """The record in a file.

    Raises:
        DataError: no such file, or not a record of a head search.
    """
    content = read_record(path, "sinkpretrain calibrate RUN --tasks TASK ...", like=HEADS)
    try:
        rules = {rule: [(layer, head) for layer, head in heads] for rule, heads in content["rules"].items()}
        settings = build(Settings, content["settings"], "settings")
        return HeadsFile(**{**content, "settings": settings, "rules": rules})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: is not a record of a head search ({error}); make it with sinkpretrain calibrate"
        ) from None


def effects(outcomes: Outcomes) -> list[dict[str, Any]]:
    """A row for each head: how often it saw a sink, and the mean changes when it is calibrated alone.

    `p` and `q` are of the test that the log-probability of the right answer rises; a head without a sink changes
    nothing and is not among the tested ones.
    """
    seen_J = np.asarray(outcomes.saw_JI.any(axis=1))
    p_J, q_J = np.ones(len(seen_J)), np.ones(len(seen_J))
    if seen_J.any():
        p_J[seen_J], q_J[seen_J] = head_test(outcomes.logprob_JI[seen_J])
    columns = {
        "sink_share": outcomes.saw_JI.mean(axis=1),
        "accuracy": outcomes.accuracy_JI.mean(axis=1),
        "logprob": outcomes.logprob_JI.mean(axis=1),
        "margin": outcomes.margin_JI.mean(axis=1),
        "p": p_J,
        "q": q_J,
    }
    return [
        {"layer": layer, "head": head, **{name: float(values[row]) for name, values in columns.items()}}
        for row, (layer, head) in enumerate(outcomes.heads)
    ]


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, HeadList]:
    """The heads that each rule chooses."""
    better = [row for row in rows if row["accuracy"] > 0]
    surely_better = [row for row in rows if row["logprob"] > 0 and row["q"] <= FALSE_SHARE]
    chosen = {"paper": better, "corrected": surely_better}
    return {name: [(row["layer"], row["head"]) for row in some] for name, some in chosen.items()}


def vanilla_means(outcomes: Outcomes) -> dict[str, float]:
    """What the model reaches without ACT on the calibration items."""
    arrays: dict[str, NDArray[np.float64]] = {
        "accuracy": outcomes.accuracy_I,
        "logprob": outcomes.logprob_I,
        "margin": outcomes.margin_I,
    }
    return {name: float(values.mean()) for name, values in arrays.items()}
