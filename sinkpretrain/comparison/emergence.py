"""When in training a sink emerges, and whether super neurons that fire early at the first token foretell it.

A probe series has settled at a level from the first probe on at which it reaches the level and below which no later
probe falls. The step is known only up to the spacing of the probes, so the last probe before it is given too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sinkpretrain.runs import Run

SINK_RATE = "sink/rate_normalised"
NEURON_RATIO = "activation/neuron_peak_ratio"
LEVEL = 0.1  # share of (sequence, layer, head)
RATIO = 2.0  # largest activation at the first token over that at the others
RUNS_FOR_A_CLAIM = 5
ORDERS = 50_000  # of the runs, that a p-value with ties is counted over; fewer than n! are drawn at random


@dataclass(frozen=True, kw_only=True)
class Emergence:
    """One run's sink over training, steps and tokens at probes; None where it does not emerge (censored)."""

    run: Run
    variant: str
    seed: int
    level: float
    ratio: float
    probed_until: int  # the last probe with a sink rate
    step: int | None
    tokens: int | None
    below: int | None  # the last probe at which the sink had not emerged
    neurons_step: int | None  # from where on super neurons fire `ratio` times as strongly at the first token

    @property
    def lead(self) -> int | None:
        """Steps from the activation of super neurons to the sink; negative where the sink is there first."""
        return None if self.step is None or self.neurons_step is None else self.step - self.neurons_step


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Kendall's tau of the activation ratio at an early step with the order in which sinks emerge.

    A negative tau: the stronger the super neurons fire early, the earlier the sink. Runs without a sink rank last.
    """

    step: int | None  # where the ratio is read; None: no early probe that all runs share
    runs: int
    emerged: int
    left_out: int  # of variants with sinks: without the ratio, or ended before the last sink emerged
    tau: float | None = None
    p: float | None = None  # two-sided, over all orders of the runs

    def sentence(self) -> str:
        """The finding in words, `no claim` where too few runs emerged to carry one."""
        counted = f"{self.runs} runs, {self.emerged} of them with a sink"
        missing = f" ({self.left_out} more left out: no ratio there, or ended too early to be ranked)"
        counted += missing if self.left_out else ""
        if self.emerged < RUNS_FOR_A_CLAIM:
            return (
                f"no claim whether early super-neuron activation foretells the sink: {counted}, and a claim needs "
                f"{RUNS_FOR_A_CLAIM} with a sink{self._statistic()}"
            )
        if self.tau is None or self.p is None:
            why = "no early probe is shared by all" if self.step is None else "all ratios, or all steps, are equal"
            return f"no claim whether early super-neuron activation foretells the sink: {counted}; {why}"
        return f"early super-neuron activation against the step of emergence: {counted}{self._statistic()}"

    def _statistic(self) -> str:
        if self.tau is None or self.p is None:
            return ""
        return f"; Kendall's tau {self.tau:.2f}, p = {self.p:.2g} for the ratio at step {self.step:,}"


def settled(values: Sequence[float] | np.ndarray, level: float) -> int | None:
    """Index of the first value from which on all reach `level`; None where the last one does not.

    A value that is not a number does not reach any level.
    """
    short = np.flatnonzero(~(np.asarray(values, dtype=np.float64) >= level))
    first = 0 if not len(short) else int(short[-1]) + 1
    return first if first < len(values) else None


def emergence(run: Run, level: float = LEVEL, ratio: float = RATIO) -> Emergence | None:
    """When a run's sink emerges, from its metrics.jsonl; None where it recorded no sink rate."""
    rows = [row for row in run.metrics() if SINK_RATE in row]
    if not rows:
        return None
    config = run.config()
    steps = [int(row["step"]) for row in rows]
    at = settled([row[SINK_RATE] for row in rows], level)
    before = len(rows) if at is None else at
    neurons_steps, ratios = run.series(NEURON_RATIO)
    neurons_at = settled(ratios, ratio)
    return Emergence(
        run=run,
        variant=config.variant,
        seed=config.seed,
        level=level,
        ratio=ratio,
        probed_until=steps[-1],
        step=None if at is None else steps[at],
        tokens=None if at is None else int(rows[at]["tokens"]),
        below=steps[before - 1] if before else None,
        neurons_step=None if neurons_at is None else int(neurons_steps[neurons_at]),
    )


def emergences(runs: Sequence[Run], level: float = LEVEL, ratio: float = RATIO) -> list[Emergence]:
    """The runs that recorded a sink rate, in the order given."""
    return [found for run in runs if (found := emergence(run, level, ratio)) is not None]


def prediction(found: Sequence[Emergence]) -> Prediction:
    """Whether early activation of super neurons foretells when the sink comes, over the variants that have sinks.

    The ratio is read at the last log-spaced probe (0, 1, 2, 4, ...) before the earliest sink that all runs share. A run
    without a sink ranks last if it was probed as long as the last sink took; ended earlier, it has no rank and is left
    out. Runs of several variants are ranked together, so a tau over them is of designs as much as of seeds.
    """
    with_sinks = {one.variant for one in found if one.step is not None}
    members = [one for one in found if one.variant in with_sinks]
    emerged = [one.step for one in members if one.step is not None]
    if not emerged:
        return Prediction(step=None, runs=len(members), emerged=0, left_out=0)
    series = {one.run.root: _ratios(one.run) for one in members}
    ranked = [
        one for one in members if series[one.run.root] and (one.step is not None or one.probed_until >= max(emerged))
    ]
    count = sum(one.step is not None for one in ranked)
    early = _shared_step([series[one.run.root] for one in ranked], min(emerged))
    tau, p = None, None
    if early is not None and len(ranked) > 1:
        ratios = np.array([series[one.run.root][early] for one in ranked])
        order = np.array([np.inf if one.step is None else one.step for one in ranked])
        tau, p = kendall(ratios, order)
    left_out = len(members) - len(ranked)
    return Prediction(step=early, runs=len(ranked), emerged=count, left_out=left_out, tau=tau, p=p)


def kendall(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    """Kendall's tau-b and its two-sided p over all orders of one against the other.

    With ties and more runs than `ORDERS` allow to count (n! orders), p is over that many random orders. None and None
    where all of one are equal.
    """
    x, y = stats.rankdata(x), stats.rankdata(y)
    tied = len(np.unique(x)) < len(x) or len(np.unique(y)) < len(y)
    result = stats.kendalltau(x, y, method="asymptotic" if tied else "exact")
    if np.isnan(result.statistic):
        return None, None
    p = result.pvalue
    if tied:
        signs_y = np.sign(y[:, None] - y[None, :])

        def concordance(x: np.ndarray, axis: int) -> np.ndarray:
            x = np.moveaxis(x, axis, -1)
            return np.asarray((np.sign(x[..., :, None] - x[..., None, :]) * signs_y).sum(axis=(-2, -1)))

        by_order = {"permutation_type": "pairings", "vectorized": True, "n_resamples": ORDERS, "rng": 0}
        p = stats.permutation_test((x,), concordance, batch=1000, **by_order).pvalue
    return float(result.statistic), float(p)


def _ratios(run: Run) -> dict[int, float]:
    """The activation ratio by step, where it is a number."""
    steps, values = run.series(NEURON_RATIO)
    return {int(step): float(value) for step, value in zip(steps, values, strict=True) if np.isfinite(value)}


def _shared_step(series: Sequence[Mapping[int, float]], before: int) -> int | None:
    """The last of 0, 1, 2, 4, ... below a step at which every series has a value."""
    shared = set.intersection(*(set(one) for one in series)) if series else set()
    return max((step for step in shared if step < before and step & (step - 1) == 0), default=None)
