"""The attention map averaged over layers and heads (ACT, 2406.15765, Fig. 1 upper)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, no_record, probed, probed_at
from sinkpretrain.figures.base.maps import NORMALISED, RAW, colour_bar, draw_map, mean_map
from sinkpretrain.figures.base.style import canvas, plain

PANEL_TITLE = 9.0  # points: six panels beside each other hold a variant and its weights


class AttentionMap(Figure):
    """Mean weight over sequences, layers and heads: rows are queries, columns are keys, one panel a variant."""

    question = "Which columns of the average attention map are bright: the first token alone, or later ones as well?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Rows divided by their sum; the raw weights beneath where any variant's rows do not sum to one."""
        maps = {array: [mean_map(arm, array) for arm in arms] for array in (NORMALISED, RAW)}
        if all(found is None for found in maps[NORMALISED]):
            raise no_record(arms, f"probe record '{NORMALISED}'")
        both = any(_differ(one, other) for one, other in zip(maps[NORMALISED], maps[RAW], strict=True))
        shown = ((NORMALISED, "rows divided by their sum"), (RAW, "raw weights"))[: 1 + both]
        title = f"Attention map, mean over layers and heads, {probed_at(arms)}"
        size = max(2.0, min(3.4, 6.0 / len(arms)))  # inches of a map
        figure, panels = canvas(title, rows=len(shown), columns=len(arms), height=0.8 + (size + 0.4) * len(shown))
        figure.set_layout_engine("compressed")  # squares leave room that the other layout would put between them
        image = None
        for row, (array, heading) in zip(panels, shown, strict=True):
            for axes, arm, map_LTS in zip(row, arms, maps[array], strict=True):
                if map_LTS is None:
                    axes.set_axis_off()
                else:
                    image = draw_map(axes, arm, map_LTS.mean(axis=0))
                more = " (no record)" if map_LTS is None else f"\n{heading}" if both else ""
                axes.set_title(plain(arm.name) + more, loc="left", fontsize=PANEL_TITLE)
            row[0].set_ylabel("query (position)")
        for axes in panels[-1]:
            axes.set_xlabel("key (position)")
        assert image is not None
        colour_bar(figure, image, list(panels.flat))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """What the later half of the queries give the first key, and the brightest other column."""
        first = each_arm(arms, probed(NORMALISED, lambda map_LTS: _columns(map_LTS)[0]))
        other = each_arm(arms, probed(NORMALISED, lambda map_LTS: _columns(map_LTS)[1:].max(initial=0.0)))
        return (
            "A sink is a bright column, whatever the query. Mean weight from the later half of the queries on the "
            f"first key: {first}; on the brightest other key of the earlier half: {other}."
        )


def _columns(map_LTS: np.ndarray) -> np.ndarray:
    """The mean weight that the later half of the queries give each key of the earlier half."""
    half = max(map_LTS.shape[1] // 2, 1)
    return np.asarray(np.nanmean(map_LTS[:, half:, :half], axis=(0, 1)))


def _differ(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and not np.allclose(one, other, equal_nan=True, atol=1e-6)
