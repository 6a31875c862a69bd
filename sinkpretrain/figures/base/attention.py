"""Figures of attention weights: one panel that compares designs, and the raw weights where these say something else."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base.arms import Arm, Curve, differ
from sinkpretrain.figures.base.style import canvas, from_zero


def attention_panels(
    title: str,
    arms: Sequence[Arm],
    names: tuple[str, str],
    curves: Callable[[Arm, str], list[Curve]],
    draw: Callable[[Axes, str], None],
) -> tuple[Canvas, list[Axes]]:
    """A panel of row-normalised weights, and one of raw weights if any arm's rows do not sum to one.

    Row-normalised weights are comparable between designs, and to uniform attention. A raw sigmoid weight is not: a row
    of them can sum to half its length.

    Args:
        title: of the figure.
        arms: what is drawn.
        names: the record of the normalised and of the raw weights.
        curves: an arm's curves of a record, to tell whether the two differ.
        draw: draws a record of all arms into axes.
    """
    normalised, raw = names
    both = any(differ(curves(arm, normalised), curves(arm, raw)) for arm in arms)
    figure, (row,) = canvas(title, columns=1 + both)
    headings = ("rows divided by their sum", "raw weights")
    for axes, name, heading in zip(row, names, headings, strict=False):
        draw(axes, name)
        from_zero(axes)
        if both:
            axes.set_title(heading, loc="left")
    return figure, list(row)
