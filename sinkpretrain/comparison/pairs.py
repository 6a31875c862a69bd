"""Two variants side by side: what differs over their shared seeds, and how much sooner one learns.

Letters: S seeds.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sinkpretrain.comparison.outcomes_of_runs import LOSS, PROBED, Outcome
from sinkpretrain.comparison.paired_seeds import SEEDS_FOR_A_CLAIM, Question, SeedEffect, Verdict, paired
from sinkpretrain.comparison.tuning import Variant, unequal_tuning

LOSS_HEADING = "validation loss (nats a token)"
SPEED_UP_MARGIN = 1.05  # `no gain` in speed says that less than a twentieth of the tokens is saved

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A variant against another, the baseline, over the seeds that both finished at their chosen learning rates."""

    baseline: Variant
    variant: Variant

    @cached_property
    def seeds(self) -> list[int]:
        """The shared ones, rising."""
        return sorted(self.baseline.chosen.keys() & self.variant.chosen.keys())

    @cached_property
    def both_S(self) -> list[tuple[Outcome, Outcome]]:
        """The run of the baseline and that of the variant, for each seed."""
        return [(self.baseline.chosen[seed], self.variant.chosen[seed]) for seed in self.seeds]

    @cached_property
    def no_claim(self) -> str:
        """Why nothing may be claimed about this pair; empty where it may."""
        if len(self.seeds) < SEEDS_FOR_A_CLAIM:
            return _few(len(self.seeds))
        budgets = [one.budget for one in self.both_S[0]]
        if budgets[0] != budgets[1]:
            names = (self.baseline.name, self.variant.name)
            trained = " and ".join(f"{name} {budget:,}" for name, budget in zip(names, budgets, strict=True))
            return f"unequal budgets: {trained} tokens; train both for the same"
        return unequal_tuning(self.baseline, self.variant)

    @cached_property
    def metrics(self) -> dict[str, str]:
        """What is compared besides speed, with headings: those that some shared seed of both recorded."""
        recorded = (
            name for name in PROBED if any(name in one.probed and name in two.probed for one, two in self.both_S)
        )
        return {LOSS: LOSS_HEADING, **{name: PROBED[name] for name in recorded}}

    def values(self, metric: str) -> list[tuple[float | None, float | None]]:
        """Baseline and variant, for each seed; None where it was not recorded."""
        if metric == LOSS:
            return [(one.final_loss, two.final_loss) for one, two in self.both_S]
        return [(one.probed.get(metric), two.probed.get(metric)) for one, two in self.both_S]

    @cached_property
    def effects(self) -> dict[str, SeedEffect | None]:
        """Variant minus baseline by metric, over the seeds in which both recorded it; None where there are none."""
        return {metric: _effect(self.values(metric)) for metric in self.metrics}

    def question(self, metric: str, margin: float) -> Question:
        """What is asked of a metric; a lower loss is a gain, and what the others mean is for the reader to say."""
        effect = self.effects[metric]
        few = "" if effect and effect.seeds >= SEEDS_FOR_A_CLAIM else _few(effect.seeds if effect else 0)
        no_claim = self.no_claim or few
        if metric != LOSS:
            return Question(effect=effect, up="higher", down="lower", no_claim=no_claim)
        gain = SeedEffect(-effect.difference_S, effect.scale) if effect else None
        return Question(effect=gain, up="gain", down="harm", margin=margin, no_claim=no_claim)

    def effect_record(self, metric: str, verdict: Verdict) -> Record:
        """For JSON: the values seed by seed, and what was found."""
        values, effect = self.values(metric), self.effects[metric]
        estimate = {"mean": effect.mean if effect else None, "interval": _interval(effect), "p": _p(effect)}
        return {
            "metric": metric,
            "heading": self.metrics[metric],
            "baseline_values": [one for one, _ in values],
            "variant_values": [two for _, two in values],
            **estimate,
            **_words(verdict),
        }

    @cached_property
    def tokens(self) -> list[tuple[float | None, float | None]]:
        """Tokens until the baseline and the variant first reach the baseline's final loss, for each seed.

        None where a run never does; both are where the baseline diverged, or learned nothing, so that there is no loss
        to reach.
        """
        found: list[tuple[float | None, float | None]] = []
        for one, two in self.both_S:
            target = one.final_loss
            assert target is not None
            own, other = one.tokens_to(target), two.tokens_to(target)
            found.append((own, other) if own and other != 0 else (None, None))
        return found

    @property
    def censored(self) -> int:
        """In how many seeds the variant never reaches the baseline's final loss."""
        return sum(own is not None and other is None for own, other in self.tokens)

    @cached_property
    def speed_up(self) -> SeedEffect | None:
        """Log of the baseline's tokens over the variant's; None where some seed has no ratio, or there is no seed."""
        if not self.tokens or any(not own or not other for own, other in self.tokens):
            return None
        return _effect([(np.log(other), np.log(own)) for own, other in self.tokens if own and other])

    def speed_question(self) -> Question:
        """What is asked of the speed-up; with a seed that has no ratio there is nothing to estimate."""
        margin = float(np.log(SPEED_UP_MARGIN))
        return Question(effect=self.speed_up, up="gain", down="harm", margin=margin, no_claim=self.no_claim)

    def speed_record(self, verdict: Verdict, loss: Verdict) -> Record:
        """For JSON. Where no seed reaches the target and the loss is a `harm`, so is the speed.

        A variant whose loss is higher after the whole budget needs more than the budget to reach the lower one: that
        follows from the verdict on the loss, and is no test of its own.
        """
        effect, targets = self.speed_up, sum(own is not None for own, _ in self.tokens)
        if verdict.word != "no claim" and effect is None:
            all_censored = 0 < targets == self.censored == len(self.seeds)
            harmed = all_censored and loss.word == "harm"
            verdict = Verdict(word="harm" if harmed else "inconclusive", reason=self._why_censored(targets, harmed))
        return {
            "baseline_tokens": [own for own, _ in self.tokens],
            "variant_tokens": [other for _, other in self.tokens],
            "bounds": self._bounds(),
            "ratio": float(np.exp(effect.mean)) if effect else None,
            "interval": [float(np.exp(end)) for end in effect.interval] if effect and effect.interval else None,
            "p": _p(effect),
            "censored": self.censored,
            **_words(verdict),
        }

    def _bounds(self) -> list[float | None]:
        """What the speed-up of each censored seed is below: the baseline's tokens over the variant's budget."""
        return [
            own / two.budget if own is not None and other is None and two.budget else None
            for (own, other), (_, two) in zip(self.tokens, self.both_S, strict=True)
        ]

    def _why_censored(self, targets: int, harmed: bool) -> str:
        """What can be said without an estimate."""
        said = []
        if self.censored:
            bound = max(bound for bound in self._bounds() if bound is not None)
            reached = f"{targets - self.censored} of {targets} seeds"
            said.append(
                f"{self.baseline.name}'s final loss is reached in {reached}; where it is not, the speed-up is below "
                f"{bound:.2f}, and there is no interval"
            )
        if targets < len(self.seeds):
            said.append(f"{self.baseline.name} diverged or learned nothing in {len(self.seeds) - targets} of the seeds")
        if harmed:
            said.append("that it needs more tokens follows from its higher final loss")
        return "; ".join(said)


def _effect(values: list[tuple[float | None, float | None]]) -> SeedEffect | None:
    there = [(one, two) for one, two in values if one is not None and two is not None]
    return paired([one for one, _ in there], [two for _, two in there]) if there else None


def _few(seeds: int) -> str:
    shared = f"{seeds} shared seed{'s' * (seeds != 1)}" if seeds else "no shared seed"
    return f"{shared}; {SEEDS_FOR_A_CLAIM} are needed"


def _interval(effect: SeedEffect | None) -> list[float] | None:
    return list(effect.interval) if effect and effect.interval else None


def _p(effect: SeedEffect | None) -> float | None:
    return effect.p if effect and effect.seeds > 1 else None


def _words(verdict: Verdict) -> Record:
    return {"p_holm": verdict.p, "word": verdict.word, "reason": verdict.reason}
