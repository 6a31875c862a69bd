"""What ACT and its controls change on every task (a forest plot)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sinkpretrain.comparison.act_records import (
    CONDITIONS,
    CONTROLS,
    RULES,
    Variant,
    calibrated_sets,
    variants_of,
)
from sinkpretrain.evaluation.statistics import Effect
from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, MissingRecord
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, canvas, colour, plain
from sinkpretrain.records import BOUNDED, VANILLA

MARKS = {RULES[0]: "o", RULES[1]: "s", CONTROLS[0]: "^", CONTROLS[1]: "D"}
SPACING = 0.18  # of a row, between conditions
ROW, PANEL = 0.55, 0.55  # inches of a task, and of what else a panel has


class ActGains(Figure):
    """Differences to the model without ACT, with their 95 % intervals over items and seeds: one panel a variant."""

    question = "Does calibrating sinks raise accuracy, in which architectures, and by more than its controls do?"

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Which evaluation records (empty: all that every run with ACT has), and which of their metrics."""

        tasks: list[str] = field(default_factory=list)
        metric: str = "acc"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """A row a task and one for their mean; ACT in the variant's colour, controls in grey."""
        found = self._variants(arms)
        metric = self.options.metric
        counts = [len(_rows(variant, metric)) if variant else 1 for variant in found]
        heights = [ROW * count for count in counts]
        figure, panels = canvas(
            f"ACT minus the model without it: {metric}",
            rows=len(arms),
            height=1.2 + sum(heights) + PANEL * len(arms),
            sharex=True,
            height_ratios=counts,
        )
        for axes, arm, variant in zip(panels[:, 0], arms, found, strict=True):
            axes.set_ylabel("task (items)")
            axes.axvline(0, color=GREY, linewidth=1.2, label="_zero", zorder=1)
            if variant is None:
                axes.set_title(f"{plain(arm.name)} (no record)", loc="left")
                axes.set_yticks([])
                continue
            seeds = f", {len(variant.runs)} seeds" if len(variant.runs) > 1 else ""
            idle = [name for name in RULES if name in variant.values and variant.no_op(name)]
            axes.set_title(plain(arm.name) + seeds + "".join(f"; {name} is a no-op" for name in idle), loc="left")
            _panel(axes, arm, variant, metric)
        unit = "share of items" if metric in BOUNDED else "nats"
        panels[-1, 0].set_xlabel(f"difference of {metric} ({unit})")
        legend(figure, [], others=_handles([variant for variant in found if variant]))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The mean over tasks under each condition, with its interval."""
        parts: list[str] = []
        found = [(arm, variant) for arm, variant in zip(arms, self._variants(arms), strict=True) if variant]
        for condition in MARKS:
            effects = [
                f"{arm.name} {_words(_rows(variant, self.options.metric)[-1][1](condition))}"
                for arm, variant in found
                if condition in variant.values
            ]
            parts += [f"{condition}: {', '.join(effects)}"] if effects else []
        return (
            "A gain is an interval to the right of 0, and of ACT's own only if the controls do not have it too. "
            f"Mean difference of {self.options.metric} over tasks: {'; '.join(parts)}."
        )

    def _variants(self, arms: Sequence[Arm]) -> list[Variant | None]:
        """The records of each arm; None for those without.

        Raises:
            DataError: no arm has one, or they were evaluated differently.
        """
        sets = {run: calibrated_sets(run) for arm in arms for run in arm.runs}
        with_act = {run: names for run, names in sets.items() if names}
        shared = set.intersection(*map(set, with_act.values())) if with_act else set()
        wanted = self.options.tasks or sorted(shared)
        runs = [run for run, names in with_act.items() if wanted and set(wanted) <= set(names)]
        of_arm = {one.name: one for one in variants_of(runs, wanted, (VANILLA,))} if runs else {}
        if not any(one.tasks(self.options.metric) for one in of_arm.values()):
            what = f"an evaluation with ACT and the metric '{self.options.metric}'"
            raise MissingRecord(arms, what, "make it with sinkpretrain eval RUN --tasks TASK ... --act --controls")
        return [of_arm.get(arm.name) for arm in arms]


def _rows(variant: Variant, metric: str) -> list[tuple[str, Any]]:
    """The label of each row, and what gives its effect under a condition: each task, then their mean."""
    tasks = variant.tasks(metric)
    groups = [[task] for task in tasks] + ([tasks] if len(tasks) > 1 else [])

    def effect(of: Sequence[str]) -> Any:
        return lambda condition: variant.difference(metric, condition, VANILLA, of)

    counts = [sum(variant.values[VANILLA][task][metric].shape[1] for task in of) for of in groups]
    names = [of[0] if len(of) == 1 else f"mean of {len(of)} tasks" for of in groups]
    return [(f"{name} ({count:,})", effect(of)) for name, count, of in zip(names, counts, groups, strict=True)]


def _panel(axes: Axes, arm: Arm, variant: Variant, metric: str) -> None:
    """The rows of one variant, from the top."""
    rows = _rows(variant, metric)
    shown = list(_shown(variant))
    for place, condition in enumerate(shown):
        effects: list[Effect] = [of(condition) for _, of in rows]
        heights = [row + SPACING * (place - (len(shown) - 1) / 2) for row in range(len(rows))]
        look: dict[str, Any] = {"color": colour(arm) if condition in RULES else GREY}
        axes.hlines(
            heights,
            [effect.low for effect in effects],
            [effect.high for effect in effects],
            linewidth=1.4,
            label=f"_interval {condition}",
            **look,
        )
        look |= {"linestyle": "", "marker": MARKS[condition], "markersize": 5.5}
        look |= {"markerfacecolor": "none" if condition == RULES[1] else look["color"]}
        label = plain(arm.name) if condition == RULES[0] else f"_{condition}"
        axes.plot([effect.mean for effect in effects], heights, label=label, **look)
    axes.set_yticks(range(len(rows)), [plain(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _shown(variant: Variant) -> Iterator[str]:
    """The conditions besides vanilla that a variant's records have, but those that calibrated nothing."""
    there = (condition for condition in CONDITIONS if condition in MARKS and condition in variant.values)
    return (condition for condition in there if not variant.no_op(condition))


def _handles(variants: Sequence[Variant]) -> list[Line2D]:
    """What marks mean."""
    shown = [condition for condition in MARKS if any(condition in variant.values for variant in variants)]
    handles = []
    for condition in shown:
        face = "none" if condition == RULES[1] else GREY
        words = condition + (" (control)" if condition in CONTROLS else "")
        handles.append(
            Line2D([], [], linestyle="", color=GREY, marker=MARKS[condition], markerfacecolor=face, label=words)
        )
    return [*handles, Line2D([], [], color=GREY, linewidth=1.4, label="95 % interval")]


def _words(effect: Effect) -> str:
    return f"{effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"
