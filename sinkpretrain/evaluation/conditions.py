"""Under which conditions a model is evaluated: without ACT, with it, its controls and the paper's ablations."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sinkpretrain.calibration import Settings
from sinkpretrain.config import ModelConfig
from sinkpretrain.errors import ConfigError
from sinkpretrain.evaluation.heads import HeadList, HeadsFile
from sinkpretrain.mappings import to_mapping
from sinkpretrain.records import VANILLA

RULES = ("paper", "corrected")
ALL = "all"  # the rule that chooses every head of the layers
SHARES = (0, 40, 60, 80, 100)  # percent of the chosen heads (Table 11)
ITEMS = (30, 100, 300, 600, 1000)  # calibration items of each task (Table 10 from 300 on), and then all
CHANGES: dict[str, list[dict[str, Any]]] = {  # what an ablation does to the settings (Tables 6 to 9)
    "method": [{"method": name} for name in ("act", "temperature", "inverse_temperature", "inverse")],
    "distribution": [{"redistribution": name} for name in ("proportional", "uniform", "question_only", "choices_only")],
    "alpha": [{"alpha": value} for value in (3.0, 5.0, 7.0)],
    "beta": [{"beta": value} for value in (0.7, 0.5, 0.4, 0.3, 0.1)],
}
ABLATIONS = (*CHANGES, "share", "items")

Reselect = Callable[[int | None], HeadList]  # the heads that the first M calibration items of each task choose


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is done to the model: nothing (`settings` None), or ACT with these settings on these heads."""

    name: str
    rule: str | None = None
    heads: HeadList
    settings: Settings | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether the model answers as it does without ACT, by construction."""
        return self.settings is None or not self.heads

    def record(self, saw_sink: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
        """The `act` part of a condition's record; None of the condition without ACT."""
        if self.settings is None:
            return None
        heads, seen = ([list(head) for head in sorted(some)] for some in (self.heads, saw_sink))
        return {"rule": self.rule, "heads": heads, "settings": to_mapping(self.settings), "saw_sink": seen}


def vanilla() -> Condition:
    """The model as it is."""
    return Condition(name=VANILLA, heads=[])


def all_heads(shape: ModelConfig, settings: Settings) -> Condition:
    """ACT on every head of the layers that the settings allow; this needs no head search."""
    heads = settings.heads(shape.n_layers, shape.n_heads)
    return Condition(name="all-heads", rule=ALL, heads=heads, settings=settings)


def conditions_of(file: HeadsFile, rules: Sequence[str] = RULES, controls: bool = False) -> Iterator[Condition]:
    """`vanilla`, and for each rule ACT on the heads that it chose.

    The controls are `random-heads`, as many heads as the first rule chose out of those that saw a sink in the search,
    and `equal-mass`, where the same mass is taken from other columns than the sinks.
    """
    yield vanilla()
    for rule in rules:
        name = "all-heads" if rule == ALL else f"act-{rule}"
        yield Condition(name=name, rule=rule, heads=list(file.chosen(rule)), settings=file.settings)
    if controls:
        chosen, pool = list(file.chosen(rules[0])), sorted(file.all_with_sinks)
        drawn = random.Random(file.settings.seed).sample(pool, min(len(chosen), len(pool)))
        yield Condition(name="random-heads", rule="random", heads=sorted(drawn), settings=file.settings)
        elsewhere = replace(file.settings, columns="random")
        yield Condition(name="equal-mass", rule=rules[0], heads=chosen, settings=elsewhere)


def ablation(name: str, file: HeadsFile, rule: str, reselect: Reselect | None = None) -> Iterator[Condition]:
    """`vanilla`, and one condition a value of what one of the paper's Tables 6 to 11 changes.

    Args:
        name: of the ablation: `method`, `distribution`, `alpha`, `beta`, `share` of the heads, the best on the
            calibration items first, or `items`, heads chosen by fewer calibration items.
        file: the head search.
        rule: whose heads.
        reselect: gives the heads for a number of items, of all where it is None; only `items` needs it.

    Raises:
        ConfigError: no such ablation.
    """
    yield vanilla()
    chosen = list(file.chosen(rule))
    if name in CHANGES:
        for change in CHANGES[name]:
            (value,) = change.values()
            label = f"{name}={value if isinstance(value, str) else format(value, 'g')}"
            yield Condition(name=label, rule=rule, heads=chosen, settings=replace(file.settings, **change))
    elif name == "share":
        gains = {(row["layer"], row["head"]): (row["accuracy"], row["logprob"]) for row in file.heads}
        best_first = sorted(chosen, key=lambda head: gains[head], reverse=True)
        for share in SHARES:
            some = best_first[: math.ceil(len(chosen) * share / 100)]
            yield Condition(name=f"share={share}%", rule=rule, heads=some, settings=file.settings)
    elif name == "items":
        if reselect is None:
            raise ConfigError("--ablate: items needs the outcomes beside the run's own search; give no file to --act")
        most = max(task["items"] for task in file.tasks.values())
        for count in (*(count for count in ITEMS if count < most), None):
            label = f"items={count or 'all'}"
            yield Condition(name=label, rule=rule, heads=reselect(count), settings=file.settings)
    else:
        raise ConfigError(f"--ablate: {name!r} is not one of {', '.join(ABLATIONS)}")
