"""The legend below a figure's axes: the variants in the first rows, then what kinds of line there are."""

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sinkpretrain.figures.base.arms import Arm
from sinkpretrain.figures.base.style import GREY, MARKERS, colour, mark_size, plain

CHARACTERS_AN_INCH = 12  # of the style's font, on average
CHARACTERS_A_HANDLE = 8  # the room that a line and the gaps beside it take


def legend(
    figure: Canvas,
    arms: Sequence[Arm],
    *,
    dashed: str = "",
    dash_dotted: str = "",
    dotted: str = "",
    others: Sequence[Artist] = (),
) -> None:
    """Below the axes: every arm, marked where it has no record, what each style of line is, and `others`."""
    drawn = {line.get_label() for axes in figure.axes for line in axes.lines}
    variants: list[Artist] = []
    for arm in arms:
        look: dict[str, Any] = {"color": colour(arm), "marker": MARKERS[arm.place % len(MARKERS)]}
        look |= {"markersize": mark_size(arm), "linewidth": 1.9, "label": plain(arm.name)}
        if plain(arm.name) not in drawn:
            look |= {"linewidth": 0, "alpha": 0.4, "label": f"{plain(arm.name)} (no record)"}
        variants.append(Line2D([], [], **look))
    thin = "one seed; bold: mean of all" if "_seed" in drawn else ""
    kinds = (("--", 1.3, dashed), ("-.", 1.3, dash_dotted), (":", 1.6, dotted), ("-", 0.8, thin))
    notes = [
        *others,
        *(
            Line2D([], [], color=GREY, linestyle=look, linewidth=width, label=text)
            for look, width, text in kinds
            if text
        ),
    ]
    columns = _columns(variants, notes, CHARACTERS_AN_INCH * figure.get_figwidth())
    handles = [handle for column in columns for handle in column]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(columns))


def _columns(variants: list[Artist], notes: list[Artist], characters: float) -> list[list[Artist]]:
    """The handles by column, in as few rows as fit the width; notes begin a new row unless there is only one."""
    for count in range(max(len(variants), len(notes)), 0, -1):
        columns = _filled([variants, notes], count)
        if _width(columns) <= characters:
            break
    one_row = _filled([variants + notes], len(variants) + len(notes))
    return one_row if _width(one_row) <= characters else columns


def _filled(groups: Sequence[list[Artist]], count: int) -> list[list[Artist]]:
    """Groups laid out row by row in `count` columns, with empty handles where a group's last row ends."""
    cells: list[Artist] = []
    for group in groups:
        cells += [*group, *(Line2D([], [], linestyle="", label=" ") for _ in range(-len(group) % count))]
    return [cells[place::count] for place in range(count)]


def _width(columns: Sequence[Sequence[Artist]]) -> int:
    """What the columns take beside each other, in characters."""
    return sum(max(len(str(handle.get_label())) for handle in column) + CHARACTERS_A_HANDLE for column in columns)
