"""Attention maps of calibrated heads before and after ACT (2406.15765, Fig. 4).

Shapes use T query positions, S key positions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.errors import DataError
from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, MissingRecord
from sinkpretrain.figures.base.maps import colour_bar, draw_map
from sinkpretrain.figures.base.style import INK, canvas, plain
from sinkpretrain.records import read_arrays
from sinkpretrain.runs import Run

WHEN = ("before", "after")
MARKED = 0.1  # the share of heads from which on a column is marked as a sink
ABOVE = 0.035  # of the map's height, from a column to its mark
PANEL_TITLE = 9.0  # points


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Mean attention maps over heads and seeds, and in which share of the heads each column is a sink."""

    map_TS: dict[str, np.ndarray]
    sinks_S: np.ndarray
    heads: int  # of the first seed


class ActMaps(Figure):
    """Mean maps over the calibrated heads: rows are queries, columns are keys, one panel before and one after."""

    question = "Where does the weight go that ACT takes from later sinks?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Before and after on one logarithmic scale, sink columns marked above; side by side for one variant."""
        found = _maps_of(arms)
        one = len(arms) == 1
        size = 2.75 if one else max(2.0, min(3.4, 6.0 / len(arms)))  # inches of a map
        rows, columns = (1, 2) if one else (2, len(arms))
        title = f"Attention maps before and after ACT (triangle: a sink in {MARKED:.0%} of the heads or more)"
        figure, panels = canvas(title, rows=rows, columns=columns, height=0.8 + (size + 0.4) * rows)
        figure.set_layout_engine("compressed")  # squares leave room that the other layout would put between them
        places = panels.T if one else panels
        image = None
        for row, when in zip(places, WHEN, strict=True):
            for axes, arm, maps in zip(row, arms, found, strict=True):
                heading = f"{plain(arm.name)}, {when}" if maps else f"{plain(arm.name)} (no record)"
                axes.set_title(heading, loc="left", fontsize=PANEL_TITLE)
                if maps is None:
                    axes.set_axis_off()
                else:
                    image = draw_map(axes, arm, maps.map_TS[when])
                    _mark(axes, maps)
        for axes in panels[-1]:
            axes.set_xlabel("key (position)")
        for axes in panels[:, 0]:
            axes.set_ylabel("query (position)")
        assert image is not None
        colour_bar(figure, image, list(panels.flat))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The weight on sink columns, on the first key, and elsewhere, before and after."""
        parts = []
        for arm, maps in zip(arms, _maps_of(arms), strict=True):
            if maps:
                (sink, first), (sink_after, first_after) = (_weights(maps, when) for when in WHEN)
                parts.append(
                    f"{arm.name} {sink:.3f} to {sink_after:.3f} on sinks and {first:.3f} to {first_after:.3f} on the "
                    f"first key ({maps.heads} heads)"
                )
        return (
            "Marked columns fade and the others brighten in proportion, if ACT does what it says. Mean weight from the "
            f"later half of the queries: {'; '.join(parts)}."
        )


def _maps_of(arms: Sequence[Arm]) -> list[Maps | None]:
    """The maps of each arm, mean over its seeds; None where it has none.

    Raises:
        DataError: no run has maps, or the seeds of a variant have maps of different texts.
    """
    found = [_maps(arm) for arm in arms]
    if not any(found):
        raise MissingRecord(
            arms,
            "a record of attention maps before and after ACT",
            "make it with sinkpretrain calibrate RUN --tasks TASK ...",
        )
    return found


def _maps(arm: Arm) -> Maps | None:
    records = [_read(run) for run in arm.runs if run.act_maps_path.is_file()]
    if not records:
        return None
    texts = {tuple(record["tokens"].tolist()) for record in records}
    if len(texts) > 1:
        names = ", ".join(run.name for run in arm.runs)
        raise DataError(
            f"act/maps.npz: the runs of '{arm.name}' ({names}) have maps of different texts; make them alike"
        )
    return Maps(
        map_TS={when: np.mean([record[when] for record in records], axis=0) for when in WHEN},
        sinks_S=np.mean([record["sinks"] for record in records], axis=0),
        heads=len(json.loads(str(records[0]["heads"]))),
    )


def _read(run: Run) -> dict[str, np.ndarray]:
    return read_arrays(run.act_maps_path, f"sinkpretrain calibrate {run.root} --tasks TASK ...")


def _mark(axes: Axes, maps: Maps) -> None:
    """Triangles above the columns that are sinks, where these begin."""
    columns = np.flatnonzero(maps.sinks_S >= MARKED)
    heights = columns - ABOVE * len(maps.sinks_S)
    axes.plot(columns, heights, "v", color=INK, markersize=4, clip_on=False, label="_sinks")
    axes.set(xlim=(-0.5, len(maps.sinks_S) - 0.5), ylim=(len(maps.sinks_S) - 0.5, -0.5))


def _weights(maps: Maps, when: str) -> tuple[float, float]:
    """What the later half of the queries give the sink columns together, and the first key."""
    later_TS = maps.map_TS[when][len(maps.sinks_S) // 2 :]
    sinks_S = maps.sinks_S >= MARKED
    sinks_S[0] = False
    return float(later_TS[:, sinks_S].sum(axis=1).mean()), float(later_TS[:, 0].mean())
