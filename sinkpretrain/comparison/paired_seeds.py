"""Statistics of differences that are paired over seeds, one number a seed, and the verdicts on several of them.

Letters: S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import special

from sinkpretrain.evaluation.statistics import LEVEL, Values, holm

Word = Literal["gain", "harm", "no gain", "higher", "lower", "inconclusive", "no claim", "identical"]

SEEDS_FOR_A_CLAIM = 3
RESOLUTION = 2.0**-24  # relative; differences whose spread is below that of float32 tell nothing about seeds


@dataclass(frozen=True, eq=False)
class SeedEffect:
    """A mean difference over seeds, with Student's t-interval and p.

    Differences that are all the same, as counted shares can be, have no spread to estimate an error from, and the
    t-interval would have no width. There is no interval then, and p is the sign test's: 2^(1 - S).
    """

    difference_S: Values
    scale: float = 0.0  # the largest of the values that were subtracted, without sign

    @cached_property
    def mean(self) -> float:
        """Over seeds."""
        return float(self.difference_S.mean())

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.difference_S)

    @cached_property
    def identical(self) -> bool:
        """Whether every difference is zero, to the last digit."""
        return not self.difference_S.any()

    @cached_property
    def standard_error(self) -> float | None:
        """Of the mean; None where the differences have no spread, as that of one seed."""
        if self.seeds < 2:
            return None
        spread = float(self.difference_S.std(ddof=1))
        return spread / self.seeds**0.5 if spread > RESOLUTION * self.scale else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The two-sided 95 % interval of the mean; None without a spread, but for differences that are all zero."""
        if self.identical and self.seeds > 1:
            return 0.0, 0.0
        if self.standard_error is None:
            return None
        half = float(special.stdtrit(self.seeds - 1, (1 + LEVEL) / 2)) * self.standard_error
        return self.mean - half, self.mean + half

    @cached_property
    def p(self) -> float:
        """Two-sided, of no difference."""
        return 1.0 if self.identical else min(1.0, 2 * self._tail(-abs(self.mean)))

    def p_below(self, margin: float) -> float:
        """One-sided, of a difference of at least the margin."""
        return self._tail(self.mean - margin)

    def _tail(self, distance: float) -> float:
        """The chance of a mean that lies this far below the truth, or further; above it where `distance` > 0."""
        if self.standard_error is not None:
            return float(special.stdtr(self.seeds - 1, distance / self.standard_error))
        return 0.5**self.seeds if distance < 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """One effect to be judged, and the words for what may be found."""

    effect: SeedEffect | None  # None: it cannot be estimated, which counts as p = 1
    up: Word  # the effect is above 0
    down: Word
    margin: float | None = None  # `no gain` says that the effect is below it; None: that is no answer here
    no_claim: str = ""  # why nothing may be claimed whatever was found


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The word, the p-value of no effect as adjusted (None where nothing may be claimed), and the reason, if any."""

    word: Word
    p: float | None = None
    reason: str = ""


def judge(questions: Sequence[Question]) -> list[Verdict]:
    """Verdicts that stand side by side.

    `up` and `down`: the effect differs from 0 (two-sided, 5 %). `no gain`: it does not, and is below the margin
    (one-sided, 2.5 %). `identical`: all differences are zero to the last digit. `inconclusive`: none of these. Both
    p-values, of no effect and of the margin, are Holm's over the questions about which something may be claimed.
    """
    asked = [place for place, question in enumerate(questions) if not question.no_claim]
    effects = [questions[place].effect for place in asked]
    p = dict(zip(asked, holm([effect.p if effect else 1.0 for effect in effects]), strict=True))
    margins = [place for place in asked if questions[place].margin is not None]
    below = dict(zip(margins, holm([_below_margin(questions[place]) for place in margins]), strict=True))
    found = []
    for place, question in enumerate(questions):
        if question.no_claim:
            equal = question.effect is not None and question.effect.identical
            found.append(Verdict(word="no claim", reason=question.no_claim + "; equal to the last digit" * equal))
        else:
            found.append(_verdict(question, p[place], below.get(place, 1.0), len(asked)))
    return found


def _below_margin(question: Question) -> float:
    assert question.margin is not None
    return question.effect.p_below(question.margin) if question.effect else 1.0


def _verdict(question: Question, p: float, below: float, tests: int) -> Verdict:
    """The verdict from p-values that are adjusted."""
    effect = question.effect
    if effect is None:
        return Verdict(word="inconclusive")
    if effect.identical:
        return Verdict(word="identical", p=p, reason=f"equal to the last digit in all {effect.seeds} seeds")
    if p < 1 - LEVEL:
        return Verdict(word=question.up if effect.mean > 0 else question.down, p=p)
    if below < (1 - LEVEL) / 2:
        return Verdict(word="no gain", p=p)
    reason = ""
    if effect.standard_error is None:
        reason = f"the same difference in all {effect.seeds} seeds: no spread for a t-interval, p is the sign test's"
    elif effect.p < 1 - LEVEL:
        reason = f"differs from 0 on its own, but not with the adjustment for {tests} tests"
    return Verdict(word="inconclusive", p=p, reason=reason)


def paired(baseline_S: Sequence[float], variant_S: Sequence[float]) -> SeedEffect:
    """The effect `variant` minus `baseline`."""
    pair = np.asarray([baseline_S, variant_S], dtype=np.float64)
    return SeedEffect(pair[1] - pair[0], float(np.abs(pair).max()))
