"""What training runs came to, seed by seed, and what may be said of the differences (a forest plot)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sinkpretrain.comparison.outcomes_of_runs import LOSS, PROBED, outcomes
from sinkpretrain.comparison.pairs import LOSS_HEADING
from sinkpretrain.comparison.tuning import Variant, variants_of
from sinkpretrain.comparison.verdicts import compare
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, no_record
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, canvas, colour, mark_size, plain

COLUMNS = 2
ROW, PANEL = 0.34, 0.75  # inches of a variant, and of what else a panel has
SPEED_HEADING = "speed-up (the baseline's tokens over the variant's)"
LABELS = {LOSS: LOSS_HEADING, **{name: heading.replace(" (", "\n(") for name, heading in PROBED.items()}}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The finished runs of each arm at its best learning rate, and the record of the comparison, if there is one."""

    variants: dict[str, Variant]
    record: dict[str, Any] | None

    @property
    def pairs(self) -> dict[str, dict[str, Any]]:
        """The pairs with the baseline, by the other variant."""
        if self.record is None:
            return {}
        base = self.record["about"]["baseline"]
        return {pair["variant"]: pair for pair in self.record["pairs"] if pair["baseline"] == base}

    def effect(self, name: str, metric: str) -> dict[str, Any] | None:
        """What a variant's difference to the baseline is in one metric, None for the baseline itself."""
        effects = self.pairs[name]["effects"] if name in self.pairs else []
        return next((one for one in effects if one["metric"] == metric and one["mean"] is not None), None)

    def values(self, name: str, metric: str) -> list[float]:
        """Of the seeds that are compared, or of all that are finished where nothing is."""
        if (effect := self.effect(name, metric)) is not None:
            pairs = zip(effect["baseline_values"], effect["variant_values"], strict=True)
            return [own for base, own in pairs if own is not None and base is not None]
        chosen = self.variants[name].chosen.values() if name in self.variants else ()
        found = [one.final_loss if metric == LOSS else one.probed.get(metric) for one in chosen]
        return [value for value in found if value is not None]


class Verdicts(Figure):
    """A row a variant: every seed, their mean, and the 95 % interval of the paired difference to the baseline."""

    question = "Which variant ends at a lower loss, and sooner, and how do its sinks and ranks differ?"
    by_rate = False  # each stands at its best rate

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """A panel a metric, the last one the speed-up; the grey tick of a row is the baseline over the same seeds."""
        found = _found(arms)
        metrics = [name for name in LABELS if any(found.values(arm.name, name) for arm in arms)]
        count = len(metrics) + bool(found.pairs)
        rows = -(-count // COLUMNS)
        figure, panels = canvas(
            "What the runs came to",
            rows=rows,
            columns=COLUMNS,
            height=0.9 + rows * (PANEL + ROW * len(arms)),
            sharey=True,
        )
        for axes, metric in zip(panels.flat, metrics, strict=False):
            axes.set_xlabel(LABELS[metric])
            for row, arm in enumerate(arms):
                _row(axes, row, arm, found.values(arm.name, metric), found.effect(arm.name, metric))
        if found.pairs:
            panels.flat[count - 1].set_xlabel(SPEED_HEADING.replace(" (", "\n("))
            for row, arm in enumerate(arms):
                _speed(panels.flat[count - 1], row, arm, found)
        for axes in panels.flat[count:]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("variant\n(name)")
        names = [plain(arm.name) + ("" if arm.name in found.variants else " (no record)") for arm in arms]
        panels[0, 0].set_yticks(range(len(arms)), names)
        panels[0, 0].set_ylim(len(arms) - 0.5, -0.5)
        for axes in panels.flat:
            axes.grid(visible=False, axis="y")
        legend(figure, [], others=_handles(panels, found))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """Mean final losses, and the answer of the comparison."""
        found = _found(arms)
        losses = [(arm.name, found.values(arm.name, LOSS)) for arm in arms if arm.name in found.variants]
        listed = ", ".join(f"{name} {np.mean(values):.3f} ({len(values)})" for name, values in losses)
        answer = f" {found.record['about']['sentence']}" if found.record else ""
        return (
            "A variant differs from the baseline where its bar leaves the grey tick out; whether that holds for all "
            f"tests together is what the word says. Mean final loss (seeds): {listed}.{answer}"
        )


def _found(arms: Sequence[Arm]) -> Found:
    """The outcomes of the arms' runs.

    Raises:
        DataError: none is finished, or they cannot be compared.
    """
    runs = [run for arm in arms for run in arm.runs]
    trained = [run for run in runs if run.data_manifest_path.is_file() and not run.source_path.is_file()]
    try:
        variants = {one.name: one for one in variants_of(outcomes(trained)) if one.chosen}
        record = compare(trained) if len(variants) > 1 else None
    except ConfigError as error:
        raise DataError(str(error)) from None
    if not variants:
        raise no_record(arms, f"metric '{LOSS}' of a finished run")
    return Found(variants=variants, record=record)


def _row(axes: Axes, row: int, arm: Arm, values: Sequence[float], effect: dict[str, Any] | None) -> None:
    """One variant in one panel: dots for seeds, the mean, the interval, the baseline and the word."""
    if not values:
        return
    base = None
    if effect is not None:
        both = zip(effect["baseline_values"], effect["variant_values"], strict=True)
        base = float(np.mean([one for one, own in both if one is not None and own is not None]))
    interval = (
        [base + end for end in effect["interval"]] if effect and effect["interval"] and base is not None else None
    )
    _draw(axes, row, arm, values, float(np.mean(values)), interval, base)
    if effect is not None:
        _word(axes, row, effect["word"])


def _speed(axes: Axes, row: int, arm: Arm, found: Found) -> None:
    """The ratio of tokens; hollow where only an upper bound is known."""
    if arm.name not in found.variants:
        return
    pair = found.pairs.get(arm.name)
    if pair is None:  # the baseline itself
        _draw(axes, row, arm, [1.0], 1.0, None, None)
        return
    speed = pair["speed_up"]
    tokens = zip(speed["baseline_tokens"], speed["variant_tokens"], strict=True)
    ratios = [own / other for own, other in tokens if own and other]
    if speed["ratio"] is not None:
        _draw(axes, row, arm, ratios, speed["ratio"], speed["interval"], 1.0)
    else:
        bounds = [bound for bound in speed["bounds"] if bound is not None]
        look: dict[str, Any] = {"color": colour(arm), "linestyle": "", "zorder": 3}
        axes.plot(ratios, [row] * len(ratios), marker="o", markersize=4, label=plain(arm.name), **look)
        axes.plot(bounds, [row] * len(bounds), marker="$\\leftarrow$", markersize=11, label="_below", **look)
        axes.plot([1.0], [row], color=GREY, marker="|", markersize=13, linestyle="", label="_baseline", zorder=1)
    _word(axes, row, speed["word"])


def _draw(
    axes: Axes,
    row: int,
    arm: Arm,
    values: Sequence[float],
    mean: float,
    interval: Sequence[float] | None,
    base: float | None,
) -> None:
    """A row's marks; `base` is where the baseline stands."""
    if base is not None:
        axes.plot([base], [row], color=GREY, marker="|", markersize=13, linestyle="", label="_baseline", zorder=1)
    if interval is not None:
        axes.hlines(row, *interval, color=colour(arm), linewidth=1.6, label="_interval", zorder=2)
    if len(values) > 1:
        below = [row + 0.24] * len(values)
        axes.plot(values, below, color=colour(arm), marker=".", markersize=5, alpha=0.7, linestyle="", label="_dot")
    look: dict[str, Any] = {"color": colour(arm), "linestyle": "", "zorder": 3}
    axes.plot([mean], [row], marker="o", markersize=mark_size(arm), label=plain(arm.name), **look)


def _word(axes: Axes, row: int, word: str) -> None:
    axes.text(1.01, row, word, transform=axes.get_yaxis_transform(), va="center", fontsize=9)


def _handles(panels: np.ndarray, found: Found) -> list[Line2D]:
    """What marks mean, of those that were drawn."""
    drawn = {artist.get_label() for axes in panels.flat for artist in axes.get_children()}
    base = found.record["about"]["baseline"] if found.record else ""
    looks: dict[str, tuple[str, dict[str, Any]]] = {
        "": ("mean of seeds", {"marker": "o", "linestyle": ""}),
        "_dot": ("one seed", {"marker": ".", "linestyle": ""}),
        "_interval": ("95 % interval of the difference", {"linewidth": 1.6}),
        "_baseline": (f"{base}, same seeds", {"marker": "|", "markersize": 13, "linestyle": ""}),
        "_below": ("less than", {"marker": "$\\leftarrow$", "markersize": 11, "linestyle": ""}),
    }
    return [
        Line2D([], [], color=GREY, label=words, **look)
        for label, (words, look) in looks.items()
        if label in {"", *drawn}
    ]
