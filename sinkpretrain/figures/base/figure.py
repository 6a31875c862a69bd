"""The base class of every figure, and writing one or all of them."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import matplotlib
from matplotlib.figure import Figure as Canvas

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.figures.base.arms import Arm, Axis, arms_of
from sinkpretrain.figures.base.style import GREY, GRID, INK, PAPER, STYLE
from sinkpretrain.files import write_atomically
from sinkpretrain.runs import Run

# What colours of the style become on a dark screen; the others are legible on both.
DARK = {
    PAPER: "#0d1117",
    INK: "#e6edf3",
    GREY: "#9aa5b1",
    GRID: "#30363d",
    "#0072b2": "#4aa8e0",
    "#000000": "#ffffff",
}


class Figure(ABC):
    """One figure: the question it answers, its drawing, and one sentence on what to look for."""

    question: ClassVar[str]
    over_training: ClassVar[bool] = False  # whether the x axis is training, in tokens, steps or seconds
    by_rate: ClassVar[bool] = True  # whether the learning rates of a variant are arms of their own

    def draw(self, runs: Sequence[Run], x: Axis = "tokens") -> Canvas:
        """The figure of these runs; `x` is the unit of training where training is the x axis.

        Raises:
            DataError: no runs, or none with the records the figure is drawn from.
            ConfigError: an `x` other than tokens for a figure whose x axis is not training.
        """
        if x != "tokens" and not self.over_training:
            name = type(self).__name__
            raise ConfigError(f"x: '{x}' has no effect on {name}, whose x axis is not training; leave it out")
        with matplotlib.rc_context(STYLE):
            canvas = self.draw_arms(arms_of(runs, by_rate=self.by_rate), x)
            layout = canvas.get_layout_engine()
            assert layout is not None
            layout.execute(canvas)
        # The layout moves a little each time it is computed; computed once, every rendering gives the same bytes.
        canvas.set_layout_engine("none")
        return canvas

    def reading(self, runs: Sequence[Run]) -> str:
        """One sentence: what to look for, with the numbers that carry it.

        Raises:
            DataError: no runs, or none with the records.
        """
        return self.read_arms(arms_of(runs, by_rate=self.by_rate))

    @abstractmethod
    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The drawing, inside the shared style."""

    @abstractmethod
    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The sentence of `reading`."""


class Drawn(NamedTuple):
    """What `draw_all` wrote, and the figures it left out, each with the reason."""

    paths: list[Path]
    skipped: dict[str, str]


def draw_all(runs: Sequence[Run], folder: Path, x: Axis = "tokens") -> Drawn:
    """Every figure the records allow, as PNG and SVG; an `x` other than tokens is part of the file name.

    Raises:
        DataError: no runs.
    """
    arms_of(runs)
    drawn = Drawn([], {})
    for name in registry.names("figures"):
        figure: Figure = registry.load("figures", name)()
        own_x: Axis = x if figure.over_training else "tokens"
        try:
            canvas = figure.draw(runs, own_x)
        except DataError as error:
            drawn.skipped[name] = str(error)
        else:
            drawn.paths.extend(save(canvas, folder, name, own_x))
    return drawn


def save(canvas: Canvas, folder: Path, name: str, x: Axis = "tokens") -> list[Path]:
    """Write `<folder>/<name>.png` and `.svg`, `<name>_by_<x>` for another x; the same records give the same bytes."""
    stem = name if x == "tokens" else f"{name}_by_{x}"
    paths = [Path(folder) / f"{stem}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        write_atomically(path, render(canvas, path.suffix[1:]))
    return paths


def render(canvas: Canvas, kind: str) -> bytes:
    """The figure as the bytes of a `png` or `svg`, without date or version."""
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        canvas.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def follow_dark(svg: str) -> str:
    """An SVG of `render` that changes its colours where the reader's screen is dark."""
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    return svg.replace("</style>", f"@media (prefers-color-scheme: dark){{{rules}}}</style>", 1)
