"""The learning rate at which a variant is compared, and whether variants were tuned with equal budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sinkpretrain.comparison.outcomes_of_runs import Outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """A variant's runs: seeds, and learning rates where they were swept.

    It is compared at the rate with the lowest mean final loss over its seeds, of those rates that all of its seeds
    finished; a diverged run counts. The seeds that choose are those that are compared. Simulated (normal noise, A/A, 3
    to 6 seeds): where variants depend on the rate alike, nominal 5 % tests err in 2 to 5 %, since the best of several
    means varies less than one. Where one variant has three equally good rates and the other a single good one, they
    err in up to 6 %, with five in up to 8 %. Choosing for each seed by the other seeds errs more, in 8 to 14 %: its
    choices, and so its differences, hang together.
    """

    name: str
    outcomes: tuple[Outcome, ...]

    @cached_property
    def rates(self) -> dict[float, list[Outcome]]:
        """The runs of each learning rate, rising, by seed; those that are not finished among them."""
        rates = sorted({one.learning_rate for one in self.outcomes})
        by_seed = sorted(self.outcomes, key=lambda one: one.seed)
        return {rate: [one for one in by_seed if one.learning_rate == rate] for rate in rates}

    @cached_property
    def eligible(self) -> list[float]:
        """The rates that may be chosen: one alone, or of several those that every seed of the variant finished."""
        if len(self.rates) == 1:
            return [rate for rate, runs in self.rates.items() if any(one.finished for one in runs)]
        seeds = {one.seed for one in self.outcomes}
        return [rate for rate in self.rates if {one.seed for one in self.rates[rate] if one.finished} == seeds]

    def mean_loss(self, rate: float) -> float | None:
        """Over the seeds, in nats a token; None for a rate that may not be chosen."""
        if rate not in self.eligible:
            return None
        return float(np.mean([one.final_loss for one in self.rates[rate] if one.final_loss is not None]))

    @cached_property
    def learning_rate(self) -> float | None:
        """The chosen one, the lowest of equals; None where no rate may be chosen."""
        losses = [(loss, rate) for rate in self.eligible if (loss := self.mean_loss(rate)) is not None]
        return min(losses)[1] if losses else None

    @cached_property
    def chosen(self) -> dict[int, Outcome]:
        """The finished runs at the chosen rate, by seed."""
        runs = self.rates[self.learning_rate] if self.learning_rate is not None else []
        return {one.seed: one for one in runs if one.finished}

    def budget(self) -> str:
        """What the rate was chosen among, in words."""
        if len(self.rates) == 1:
            return "1 learning rate"
        finished = "" if len(self.eligible) == len(self.rates) else f" finished of {len(self.rates)}"
        return f"{len(self.eligible)}{finished} learning rates of {len({one.seed for one in self.outcomes})} seeds each"

    def warnings(self) -> list[str]:
        """What a reader must know about the choice."""
        found = []
        left_out = [f"{rate:g}" for rate in self.rates if rate not in self.eligible]
        if len(self.rates) > 1 and left_out:
            found.append(
                f"{self.name}: learning rate {', '.join(left_out)} cannot be chosen, since not every seed is finished"
            )
        lowest, highest = min(self.rates), max(self.rates)
        if len(self.eligible) > 1 and self.learning_rate in (lowest, highest):
            side = "lowest" if self.learning_rate == lowest else "highest"
            found.append(
                f"{self.name}: its best learning rate, {self.learning_rate:g}, is the {side} that was tried; one "
                "further out may be better"
            )
        return found


def variants_of(outcomes: Sequence[Outcome]) -> list[Variant]:
    """The runs grouped by variant, in their order."""
    names = dict.fromkeys(one.variant for one in outcomes)
    return [Variant(name=name, outcomes=tuple(one for one in outcomes if one.variant == name)) for name in names]


def unequal_tuning(one: Variant, other: Variant) -> str:
    """Why two variants cannot be compared at their best rates, with the remedy; empty where they can."""
    budgets = [(len(of.rates), len(of.eligible), len({run.seed for run in of.outcomes})) for of in (one, other)]
    if len(one.rates) == len(other.rates) == 1 or budgets[0] == budgets[1]:
        return ""
    return (
        f"unequal tuning: {one.name} had {one.budget()}, {other.name} {other.budget()}; run the same number of rates "
        "and seeds for both"
    )


def untuned(variants: Sequence[Variant]) -> list[str]:
    """The remark that no variant's learning rate was swept."""
    if any(len(variant.rates) > 1 for variant in variants):
        return []
    rates = sorted({one.learning_rate for variant in variants for one in variant.outcomes})
    shown = f"all at {rates[0]:g}" if len(rates) == 1 else "each at one of its own"
    return [
        f"No learning rate was swept ({shown}): which variant is better at its best rate is not known; give each the "
        "same sweep, as in optimizer: {learning_rate: [1.0e-3, 2.0e-3, 4.0e-3]}"
    ]
