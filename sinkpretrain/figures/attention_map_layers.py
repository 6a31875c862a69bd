"""The attention map of each layer, averaged over heads (ACT, 2406.15765, Fig. 1 lower)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, no_record, probed, probed_at
from sinkpretrain.figures.base.maps import NORMALISED, colour_bar, draw_map, mean_map
from sinkpretrain.figures.base.style import WIDTH, plain

MOST_LAYERS, COLUMNS = 12, 6  # maps of one variant, and of them in a row
MAP_HEIGHT, BLOCK_HEIGHT = 1.3, 0.75  # inches: of one map, and of the text around a variant's maps


class AttentionMapLayers(Figure):
    """Mean weight over sequences and heads by layer, rows divided by their sum: one block of maps a variant."""

    question = "In which layers is the first column bright, and where is attention local or even?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """All layers, or every n-th where there are too many to tell apart."""
        maps = [mean_map(arm, NORMALISED) for arm in arms]
        depths = [len(map_LTS) for map_LTS in maps if map_LTS is not None]
        if not depths:
            raise no_record(arms, f"probe record '{NORMALISED}'")
        every = -(-max(depths) // MOST_LAYERS)
        shown = [range(0) if map_LTS is None else range(0, len(map_LTS), every) for map_LTS in maps]
        rows = [max(-(-len(layers) // COLUMNS), 1) for layers in shown]
        figure = Canvas(figsize=(WIDTH, 0.4 + BLOCK_HEIGHT * len(arms) + MAP_HEIGHT * sum(rows)), layout="constrained")
        which = "each layer" if every == 1 else f"every {_ordinal(every)} layer"
        title = f"Attention map of {which}, mean over heads,\nrows divided by their sum, {probed_at(arms)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
        blocks = figure.subfigures(
            len(arms), 1, squeeze=False, height_ratios=[MAP_HEIGHT * n + BLOCK_HEIGHT for n in rows]
        )
        for block, arm, map_LTS, layers, count in zip(blocks[:, 0], arms, maps, shown, rows, strict=True):
            name = plain(arm.name) + (" (no record)" if map_LTS is None else "")
            block.suptitle(name, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
            if map_LTS is None:
                continue
            columns = -(-len(layers) // count)
            panels = block.subplots(count, columns, squeeze=False, sharex=True, sharey=True)
            for axes, layer in zip(panels.flat, layers, strict=False):
                image = draw_map(axes, arm, map_LTS[layer])
                axes.set_title(f"layer {layer}", loc="left", fontsize=9, pad=3)
                axes.tick_params(labelsize=8)
            for axes in panels[:, 0]:
                axes.set_ylabel("query (position)", fontsize=8)
            for place, axes in enumerate(panels.flat):
                if place + columns >= len(layers):  # nothing beneath it
                    axes.set_xlabel("key (position)", fontsize=8)
                    axes.tick_params(labelbottom=True)
                if place >= len(layers):
                    axes.set_axis_off()
            colour_bar(block, image, list(panels.flat))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The layers with the most and the least weight on the first key."""
        most = each_arm(arms, probed(NORMALISED, lambda map_LTS: _first_key(map_LTS).max()))
        least = each_arm(arms, probed(NORMALISED, lambda map_LTS: _first_key(map_LTS).min()))
        return (
            "A sink layer has a bright first column, a local one a bright diagonal. Mean weight on the first key over "
            f"queries t >= 1, in the layer with the most of it: {most}; with the least: {least}."
        )


def _first_key(map_LTS: np.ndarray) -> np.ndarray:
    """The mean weight on the first key, by layer."""
    return np.asarray(np.nanmean(map_LTS[:, 1:, 0], axis=1))


def _ordinal(count: int) -> str:
    """`2nd`, `3rd`, `4th`."""
    return {2: "2nd", 3: "3rd"}.get(count, f"{count}th")
