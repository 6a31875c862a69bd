"""Where sinks sit after the first position (ACT, 2406.15765, Fig. 5)."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import (
    Arm,
    Axis,
    Curve,
    Point,
    each_arm,
    furthest,
    last_probe,
    mean_curve,
    no_record,
    probed_at,
)
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import canvas, colour, draw_arm, from_zero, plain
from sinkpretrain.runs import Run

FLAGGED, CAUSAL_NULL, COUNT = (f"sink_positions/{name}" for name in ("flagged", "flagged_causal_null", "count"))


class SinkPositions(Figure):
    """Share of (sequence, layer, head) flagged as a sink at each later position, one panel a variant; raw weights."""

    question = "At which positions after the first do sinks appear?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """ACT's rule filled, the rule relative to uniform causal attention dashed."""
        if not any(_shares(arm, FLAGGED) for arm in arms):
            raise no_record(arms, f"probe record '{FLAGGED}'")
        title = f"Positions of sinks after the first, raw weights, {probed_at(arms)}"
        figure, panels = canvas(title, columns=len(arms), height=4.0, sharex=True, sharey=True)
        for axes, arm in zip(panels[0], arms, strict=True):
            axes.set_title(plain(arm.name), loc="left")
            axes.set_xlabel("position (tokens before it)")
            if null := _shares(arm, CAUSAL_NULL):
                draw_arm(axes, arm, null, dashed=True)
            if flagged := _shares(arm, FLAGGED):
                curve = mean_curve(flagged)
                axes.fill_between(curve.x, curve.y, step="mid", color=colour(arm), alpha=0.2, linewidth=0)
                draw_arm(axes, arm, flagged)
        panels[0, 0].set_ylabel("flagged (share of sequences,\nlayers and heads)")
        from_zero(*panels[0])
        legend(figure, arms, dashed="relative to uniform attention")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The share of later positions flagged by either rule, beside the first, and what favours early positions."""
        later, null = each_arm(arms, _share(FLAGGED), ".2%"), each_arm(arms, _share(CAUSAL_NULL), ".2%")
        first = each_arm(arms, _share(FLAGGED, slice(1)), ".1%")
        return (
            "Early positions come near ACT's threshold, a multiple of 1/N, under uniform attention already"
            f"{_uniform(arms)}: trust a peak there that the dashed rule, the multiple of uniform attention, shares. "
            "The last positions are seen by near queries only, so that local attention is flagged there by either. "
            f"Flagged at later positions: {later}; by the dashed rule: {null}; at the first, not drawn: {first}."
        )


def _by_position(run: Run, array: str) -> np.ndarray | None:
    """Flags and how many were looked at, [2, T], over all layers; None without a record."""
    flagged_LT, count_LT = last_probe(run, array), last_probe(run, COUNT)
    if flagged_LT is None or count_LT is None:
        return None
    return np.stack([flagged_LT.sum(axis=0), count_LT.sum(axis=0)])


def _shares(arm: Arm, array: str) -> list[Curve]:
    """The share flagged at each position after the first that any document reaches, by seed."""
    found = []
    for counts in (_by_position(run, array) for run in furthest(arm)):
        if counts is not None:
            seen = np.flatnonzero(counts[1] > 0)[1:]
            found.append(Curve(seen, seen, counts[0, seen] / counts[1, seen]))
    return found


def _share(array: str, places: slice = slice(1, None)) -> Callable[[Run], Point | None]:
    """What gives the share flagged over all of these positions."""

    def share(run: Run) -> Point | None:
        counts = _by_position(run, array)
        if counts is None or not counts[1, places].sum() > 0:
            return None
        return Point(run.probe_steps()[-1], float(counts[0, places].sum() / counts[1, places].sum()))

    return share


def _uniform(arms: Sequence[Arm]) -> str:
    """What uniform causal attention gives early positions, N (H_N - H_k) / (N - k), for each length."""
    lengths = sorted(
        {len(count_LT[0]) for arm in arms for run in arm.runs if (count_LT := last_probe(run, COUNT)) is not None}
    )
    texts = []
    for length in lengths:
        received = np.cumsum(1 / np.arange(length, 0, -1))[::-1] * length / np.arange(length, 0, -1)
        listed = ", ".join(f"{received[k]:.1f} at {k}" for k in (1, 4, 16) if k < length)
        texts.append(f" ({listed} times 1/N where N = {length})")
    return ";".join(texts)
