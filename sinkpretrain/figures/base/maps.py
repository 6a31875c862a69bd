"""Attention maps: rows are queries, columns are keys, the weight as colour on one logarithmic scale for all maps.

Shapes use L layers, T query positions, S key positions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import FigureBase
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sinkpretrain.figures.base.arms import Arm, furthest, last_probe
from sinkpretrain.figures.base.style import plain, short

LOWEST, HIGHEST = 1e-3, 1.0  # the ends of the colour scale, as weights
COLOURS = "viridis"
NORMALISED, RAW = "attention_map/normalised", "attention_map/raw"


def mean_map(arm: Arm, array: str) -> np.ndarray | None:
    """The maps of an arm's layers, [L, T, S], mean over its seeds; None where no seed recorded them."""
    found = [value for run in furthest(arm) if (value := last_probe(run, array)) is not None]
    return np.mean(found, axis=0) if found else None


def draw_map(axes: Axes, arm: Arm, weights_TS: np.ndarray) -> AxesImage:
    """One map; keys after the query, and queries without a record, are left blank."""
    future_TS = np.triu(np.ones_like(weights_TS, dtype=bool), k=1)
    shown_TS = np.ma.masked_invalid(np.where(future_TS, np.nan, weights_TS))
    norm = LogNorm(LOWEST, HIGHEST, clip=True)  # a weight of zero has the lowest colour
    look: dict[str, Any] = {"cmap": COLOURS, "interpolation": "none", "aspect": "equal", "label": plain(arm.name)}
    image = axes.imshow(np.ma.maximum(shown_TS, LOWEST), norm=norm, **look)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))
    return image


def colour_bar(figure: FigureBase, image: AxesImage, beside: Sequence[Axes]) -> None:
    """The scale beside these axes, with the arrow for smaller weights."""
    bar = figure.colorbar(image, ax=list(beside), extend="min", fraction=0.03, pad=0.02)
    bar.set_label("attention (weight)")
    bar.ax.minorticks_off()
    bar.ax.yaxis.set_major_formatter(FuncFormatter(short))
    bar.ax.set_label("_colours")
