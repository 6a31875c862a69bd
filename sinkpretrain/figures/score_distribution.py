"""How attention scores of the initial token, later sinks and other tokens are distributed (ACT, 2406.15765, Fig. 2)."""

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
from sinkpretrain.figures.base.style import GREY, canvas, colour, draw_arm, from_zero, log_axis, plain
from sinkpretrain.runs import Run

FIRST, SINKS, OTHERS = (f"score_distribution/{kind}_normalised" for kind in ("first", "sinks", "others"))
PANEL_TITLE = 9.0  # points: three panels beside each other hold a share and its words
VISIBLE = 0.02  # density from where on the score axis begins
EDGES = "score_distribution/edges"


class ScoreDistribution(Figure):
    """Distribution of a[k], the mean weight a position receives, by kind of token; each kind sums to one."""

    question = "Is there a gap between the attention that sinks receive and what other tokens receive?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The initial token solid, later sinks dashed, other tokens dotted, on a logarithmic axis."""
        if not any(_densities(arm, FIRST) for arm in arms):
            raise no_record(arms, f"probe record '{FIRST}'")
        title = f"Attention scores by kind of token, rows divided by their sum,\n{probed_at(arms)}"
        figure, panels = canvas(title, columns=len(arms), height=4.0, sharex=True, sharey=True)
        later = False
        for axes, arm in zip(panels[0], arms, strict=True):
            axes.set_title(f"{plain(arm.name)}\n{_later_sinks(arm)}", loc="left", fontsize=PANEL_TITLE)
            axes.set_xlabel("attention score\n(weight received)")
            if others := _densities(arm, OTHERS):
                curve = mean_curve(others)
                axes.fill_between(curve.x, curve.y, color=GREY, alpha=0.2, linewidth=0, label="_others")
                axes.plot(curve.x, curve.y, color=GREY, linestyle=":", linewidth=1.6, label="_reference")
            if sinks := _densities(arm, SINKS):
                draw_arm(axes, arm, sinks, dashed=True)
                later = True
            if first := _densities(arm, FIRST):
                curve = mean_curve(first)
                axes.fill_between(curve.x, curve.y, color=colour(arm), alpha=0.2, linewidth=0, label="_first")
                draw_arm(axes, arm, first)
        panels[0, 0].set_ylabel("density\n(share of the kind per decade)")
        from_zero(*panels[0])
        lines = [line for axes in panels[0] for line in axes.lines]
        shown = [float(line.get_xdata()[np.flatnonzero(line.get_ydata() > VISIBLE)[0]]) for line in lines]
        panels[0, 0].set_xlim(min(shown) / 1.5, 1.2)
        log_axis(panels[0, 0], "x")
        legend(figure, arms, dashed="later sinks" if later else "", dotted="other tokens")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The median score of each kind."""
        first, others = (each_arm(arms, _median(kind), ".2g") for kind in (FIRST, OTHERS))
        has_sinks = any(_median(SINKS)(run) for arm in arms for run in arm.runs)
        sinks = f"later sinks {each_arm(arms, _median(SINKS), '.2g')}" if has_sinks else "there are no later sinks"
        return (
            "Kinds whose curves do not overlap are told apart by their score. Later sinks are positions after the "
            "first that exceed ACT's threshold by raw weights, so their lower edge is that rule's. Median score: "
            f"initial token {first}; {sinks}; other tokens {others}."
        )


def _count(run: Run, kind: str) -> np.ndarray | None:
    """A run's counts by bin over all layers; None without a record, or where no position is of the kind."""
    count_LK = last_probe(run, kind)
    return None if count_LK is None or not count_LK.sum() > 0 else np.asarray(count_LK.sum(axis=0))


def _later_sinks(arm: Arm) -> str:
    """The share of sinks in the positions after the first, in the words of a panel's title."""
    counts = [[last_probe(run, kind) for kind in (SINKS, OTHERS)] for run in furthest(arm)]
    totals = np.array([[kind.sum() for kind in of if kind is not None] for of in counts if of[0] is not None])
    if not totals.size:
        return "no record"
    return f"later sinks: {totals[:, 0].sum() / totals.sum():.2%}"


def _densities(arm: Arm, kind: str) -> list[Curve]:
    """Share of a kind per decade of the score, at the middle of each bin, by seed."""
    found = []
    for run in furthest(arm):
        count_K, edges = _count(run, kind), last_probe(run, EDGES)
        if count_K is not None and edges is not None:
            decades = np.diff(np.log10(edges))
            found.append(Curve(np.arange(len(count_K)), _middles(edges), count_K / count_K.sum() / decades))
    return found


def _middles(edges: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(edges[1:] * edges[:-1]))


def _median(kind: str) -> Callable[[Run], Point | None]:
    """What gives the middle of the bin with the median of a kind."""

    def median(run: Run) -> Point | None:
        count_K, edges = _count(run, kind), last_probe(run, EDGES)
        if count_K is None or edges is None:
            return None
        place = int(np.searchsorted(np.cumsum(count_K), count_K.sum() / 2))
        return Point(run.probe_steps()[-1], float(_middles(edges)[place]))

    return median
