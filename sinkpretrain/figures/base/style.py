"""How figures look: one style, one look for each arm, and the axes."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sinkpretrain.figures.base.arms import (
    Arm,
    Axis,
    Curve,
    differ,
    layer_curves,
    mean_curve,
    no_record,
    series_curves,
)

AXIS_LABELS: dict[Axis, str] = {
    "tokens": "training input (tokens)",
    "step": "training (optimizer steps)",
    "seconds": "training time (seconds)",
}
LAYER_LABEL = "layer (index from 0)"

INK, GREY, GRID, PAPER = "#1b1f24", "#6e7781", "#d8dee4", "#ffffff"
# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is left out, too faint on white.
COLOURS = ("#d55e00", "#009e73", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_MARKS = 24  # longer lines are marked here and there
WIDTH = 8.0  # inches: text of this style is legible where a page shows the figure 800 pixels wide
STYLE: dict[str, Any] = {
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "sinkpretrain",  # the same records give the same bytes
}


def canvas(
    title: str, *, rows: int = 1, columns: int = 1, height: float = 4.2, **grid: Any
) -> tuple[Canvas, np.ndarray]:
    """A figure with its title and [row, column] axes; `grid` goes to `subplots` (sharing, width ratios)."""
    figure = Canvas(figsize=(max(WIDTH, 2.3 * columns), height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def colour(arm: Arm) -> str:
    """The arm's colour in every figure."""
    return COLOURS[arm.place % len(COLOURS)]


def mark_size(arm: Arm) -> float:
    """Larger marks for those drawn first, so that they show where a later arm covers them."""
    return max(7.0 - 1.2 * arm.place, 3.6)


def plain(name: str) -> str:
    """A name as matplotlib shows it unchanged: no mathematics between dollars, no hidden leading underscore."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def short(value: float, _: int | None = None) -> str:
    """A tick in few characters: 8.2k, 20M, 1.5B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def draw_arm(axes: Axes, arm: Arm, curves: Sequence[Curve], *, dashed: bool = False) -> None:
    """An arm's curves: thin lines for seeds and their mean in bold, or the only one in bold."""
    look: dict[str, Any] = {"color": colour(arm), "linestyle": (0, (4, 2)) if dashed else "-"}
    if len(curves) > 1:
        for curve in curves:
            axes.plot(curve.x, curve.y, linewidth=0.8, alpha=0.55, label="_seed", **look)
    _, x, y = mean_curve(curves)
    every = 1 if len(x) <= MOST_MARKS else 0.12  # of the axes' diagonal: even spacing also on logarithmic axes
    marker = MARKERS[arm.place % len(MARKERS)]
    look |= {"marker": marker, "markevery": every, "markersize": mark_size(arm)}
    if dashed:
        axes.plot(x, y, linewidth=1.3, markerfacecolor="none", zorder=3, label=f"_dashed {arm.name}", **look)
    else:
        axes.plot(x, y, linewidth=1.9, label=plain(arm.name), **look)


def draw_layers(axes: Axes, arms: Sequence[Arm], solid: str, dashed: str | None = None) -> bool:
    """Probe arrays by layer, the second dashed where it differs; returns whether any was.

    Raises:
        DataError: no run has the first array.
    """
    any_dashed = False
    found = [(arm, layer_curves(arm, solid)) for arm in arms]
    if not any(curves for _, curves in found):
        raise no_record(arms, f"probe record '{solid}'")
    for arm, curves in found:
        if curves:
            draw_arm(axes, arm, curves)
        others = layer_curves(arm, dashed) if dashed else []
        if differ(curves, others):
            draw_arm(axes, arm, others, dashed=True)
            any_dashed = True
    layer_axis(axes)
    return any_dashed


def draw_training(axes: Axes, arms: Sequence[Arm], x: Axis, metric: str, *, log: bool = False) -> None:
    """A metric over training.

    Raises:
        DataError: no run has the metric.
    """
    found = [(arm, series_curves(arm, metric, x)) for arm in arms]
    if not any(curves for _, curves in found):
        raise no_record(arms, f"metric '{metric}'")
    for arm, curves in found:
        if curves:
            draw_arm(axes, arm, curves)
    training_axis(axes, x, [curve for _, curves in found for curve in curves], log=log)


def layer_axis(axes: Axes) -> None:
    """Layers on the x axis: whole numbers from 0."""
    axes.set_xlabel(LAYER_LABEL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def training_axis(axes: Axes, x: Axis, curves: Sequence[Curve], *, log: bool = False) -> None:
    """Training on the x axis; `log` spreads log-spaced probes, with the untrained model at 0 on its left."""
    axes.set_xlabel(AXIS_LABELS[x])
    positive = [float(value) for curve in curves for value in curve.x if value > 0]
    if log and positive:
        first, last = min(positive), max(positive)
        axes.set_xscale("symlog", linthresh=first, linscale=0.5)
        axes.set_xlim(left=-0.3 * first)  # room for the mark at 0
        axes.set_xlabel(f"{AXIS_LABELS[x]}, logarithmic after 0")
        powers = 10.0 ** np.arange(np.floor(np.log10(first)), np.log10(last) + 1)
        steps = (1,) if last > 100 * first else (1, 2, 5)
        axes.set_xticks([0.0, *(step * power for power in powers for step in steps if first <= step * power <= last)])
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(short))


def log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make one axis logarithmic once its lines are drawn, with plain numbers at as many ticks as its range needs."""
    axes.set(**{f"{which}scale": "log"})
    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    axis.set_minor_locator(NullLocator())
    if high / low < 4:
        axis.set_major_locator(AutoLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axis.set_major_formatter(FuncFormatter(short))


def from_zero(*row: Axes) -> None:
    """Let the y axis that these axes share begin at 0, with room for the marks at the top."""
    highest = max(float(axes.dataLim.y1) for axes in row)
    row[0].set_ylim(0, 1.07 * highest if np.isfinite(highest) and highest > 0 else 1)


def baselines(axes: Axes, values: Sequence[float]) -> None:
    """Horizontal lines at what uniform weights would give."""
    for value in values:
        axes.axhline(value, color=GREY, linestyle=":", linewidth=1.6, label="_uniform")
