"""What calibrating each head alone does to the calibration items (ACT, 2406.15765, Fig. 3).

Shapes use L layers, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, MissingRecord, config_of
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, GRID, INK, PAPER, canvas, plain, short
from sinkpretrain.runs import Run

EFFECTS = {
    "accuracy": "change of accuracy\n(share of items)",
    "logprob": "change of the answer's\nlog-probability (nats)",
}
RULES = {"paper": 0.0, "corrected": 0.24}  # how far inside the cell its outline is, in cells
COLOURS = "RdBu"  # red is worse, blue better; white is no change
PANEL_TITLE, OUTLINE = 9.0, 11.0  # points


@dataclass(frozen=True, kw_only=True)
class Search:
    """A run's head search: effects of the heads that saw a sink, NaN elsewhere, and the chosen (layer, head)."""

    first_layer: int
    effect_LH: dict[str, np.ndarray]
    chosen: dict[str, list[tuple[int, int]]]
    saw_sink: int

    @classmethod
    def of(cls, run: Run) -> "Search | None":
        """That of a run; None where it has none."""
        if not run.heads_path.is_file():
            return None
        record = run.heads()
        first, last = record["layers"]
        effect_LH = {name: np.full((last - first + 1, config_of(run).model.n_heads), np.nan) for name in EFFECTS}
        for row in record["heads"]:
            if row["sink_share"] > 0:
                for name in EFFECTS:
                    effect_LH[name][row["layer"] - first, row["head"]] = row[name]
        chosen = {rule: [(int(layer), int(head)) for layer, head in of] for rule, of in record["rules"].items()}
        return cls(first_layer=first, effect_LH=effect_LH, chosen=chosen, saw_sink=int(record["saw_sink"]))


class ActHeads(Figure):
    """Maps of heads by layer, coloured by their effect: one column a run, accuracy above log-probability."""

    question = "Which heads help when their sinks are calibrated, and which of them does each rule choose?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Heads without a later sink grey; outlined those that the rules choose."""
        found = _searches(arms)
        searches = [search for _, _, search in found if search]
        layers = max(len(search.effect_LH["accuracy"]) for search in searches)
        height = min(max(1.4, 0.16 * layers + 0.6), 4.5)  # inches of a map
        title = "Effect of calibrating each head alone, on calibration items"
        figure, panels = canvas(title, rows=2, columns=len(found), height=1.6 + 2 * height)
        for row, (name, label) in zip(panels, EFFECTS.items(), strict=True):
            largest = max((float(np.nanmax(np.abs(one.effect_LH[name]), initial=0.0)) for one in searches), default=0.0)
            norm = CenteredNorm(0.0, largest or 1.0)
            image = None
            for axes, (arm, run, search) in zip(row, found, strict=True):
                if search is None:
                    axes.set_axis_off()
                else:
                    image = _map(axes, arm, search, name, norm)
                if name == "accuracy":
                    axes.set_title(_heading(arm, run), loc="left", fontsize=PANEL_TITLE)
            assert image is not None
            row[0].set_ylabel("layer (index from 0)")
            bar = figure.colorbar(image, ax=list(row), fraction=0.03, pad=0.02)
            bar.set_label(label, fontsize=PANEL_TITLE)
            bar.ax.yaxis.set_major_formatter(FuncFormatter(short))
            bar.ax.set_label("_colours")
        for axes in panels[-1]:
            axes.set_xlabel("head (index from 0)")
        square: dict[str, Any] = {"color": INK, "linestyle": "", "marker": "s", "markerfacecolor": "none"}
        outlines = [
            Line2D([], [], markersize=OUTLINE * (1 - 2 * inset), label=f"chosen: {rule}", **square)
            for rule, inset in RULES.items()
        ]
        legend(figure, [], others=[*outlines, Patch(facecolor=GRID, edgecolor=GREY, label="saw no later sink")])
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """How many heads saw a later sink, and how many of them helped and were chosen."""
        parts: list[str] = []
        for arm, run, search in _searches(arms):
            if run and search:
                accuracy_LH = search.effect_LH["accuracy"]
                chosen = ", ".join(f"{rule} chooses {len(of)}" for rule, of in search.chosen.items())
                seed = f" seed {config_of(run).seed}," if len(arm.runs) > 1 else ""
                helping = f"{(accuracy_LH > 0).sum()} raise accuracy ({chosen})"
                parts.append(f"{arm.name}{seed} {search.saw_sink} of {accuracy_LH.size}, {helping}")
        return (
            "Blue heads help alone; of hundreds some are blue by chance, and only those in the inner outline are "
            f"beyond it. Heads that saw a later sink: {'; '.join(parts)}."
        )


def _searches(arms: Sequence[Arm]) -> list[tuple[Arm, Run | None, Search | None]]:
    """Each run that has a search; an arm without any has one place.

    Raises:
        DataError: no run has one.
    """
    found: list[tuple[Arm, Run | None, Search | None]] = []
    for arm in arms:
        searches = [(arm, run, search) for run in arm.runs if (search := Search.of(run)) is not None]
        found += searches or [(arm, None, None)]
    if not any(search for _, _, search in found):
        raise MissingRecord(arms, "a head search", "make it with sinkpretrain calibrate RUN --tasks TASK ...")
    return found


def _heading(arm: Arm, run: Run | None) -> str:
    if run is None:
        return f"{plain(arm.name)} (no record)"
    return plain(arm.name) + (f" seed {config_of(run).seed}" if len(arm.runs) > 1 else "")


def _map(axes: Axes, arm: Arm, search: Search, name: str, norm: CenteredNorm) -> Any:
    """One map with its outlines."""
    effect_LH = np.ma.masked_invalid(search.effect_LH[name])
    layers, heads = effect_LH.shape
    first = search.first_layer
    axes.set_facecolor(GRID)
    extent = (-0.5, heads - 0.5, first + layers - 0.5, first - 0.5)
    look: dict[str, Any] = {"cmap": COLOURS, "aspect": "auto", "interpolation": "none", "extent": extent}
    image = axes.imshow(effect_LH, norm=norm, label=plain(arm.name), **look)
    outline: dict[str, Any] = {
        "fill": False,
        "edgecolor": INK,
        "path_effects": [withStroke(linewidth=2.6, foreground=PAPER)],
    }
    for rule, inset in RULES.items():
        for layer, head in search.chosen.get(rule, ()):
            corner, size = (head - 0.5 + inset, layer - 0.5 + inset), 1 - 2 * inset
            axes.add_patch(Rectangle(corner, size, size, label=f"_{rule}", **outline))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    return image
