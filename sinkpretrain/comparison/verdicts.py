"""Verdicts on training runs: which variant learns better and sooner, and what its sinks, ranks and dominance are.

Differences are paired over seeds, which share initial values of common tensors, the order of the data and the held-out
text; every variant stands at its best learning rate, and Holm's adjustment is over all tests of all pairs.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from sinkpretrain.comparison.comparability import refuse_incomparable, remarks
from sinkpretrain.comparison.experiment import read_experiment_record
from sinkpretrain.comparison.outcomes_of_runs import LOSS, Outcome, outcomes
from sinkpretrain.comparison.paired_seeds import SEEDS_FOR_A_CLAIM, Question, judge
from sinkpretrain.comparison.pairs import SPEED_UP_MARGIN, Pair
from sinkpretrain.comparison.tuning import Variant, untuned, variants_of
from sinkpretrain.comparison.verdict_sentence import sentence
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.statistics import LEVEL, MARGIN
from sinkpretrain.runs import Run

NOTES = (
    "Differences are variant minus baseline, paired over the seeds that both finished. Intervals are Student's t at "
    "95 % and not adjusted; verdicts are by p-values that Holm's method adjusts for all tests of this comparison.",
    "Seeds are initial weights. The order of the data and the held-out text are the same for all runs, so verdicts "
    "concern these.",
    "The speed-up is the baseline's tokens to its own final loss over the variant's tokens to the same loss, by seed; "
    "its mean is geometric. Where the learning rate decays, the variant's loss in mid-run is held against the "
    "baseline's at the end of the decay: a speed-up above 1 is then an underestimate.",
    "A diverged run stays in: its final loss is the untrained model's, or its last recorded one if that is worse; it "
    "never reaches a loss, and has no sinks, ranks or dominance to compare.",
    "Of several learning rates a variant is compared at the one with the lowest mean final loss over its seeds. The "
    "same seeds choose and are compared, which favours a variant with more equally good rates a little.",
)

Record = dict[str, Any]


def compare(runs: Sequence[Run], baseline: str | None = None, margin: float = MARGIN) -> Record:
    """The record of a comparison: `about` with the answer in a sentence, `variants` and `pairs`.

    Args:
        runs: of at least two variants.
        baseline: the variant that the others are compared with first; none: the experiment's, or the first.
        margin: `no gain` says that the loss is lower by less, in nats a token.

    Raises:
        ConfigError: imported models, a single variant, an unknown baseline, a margin that is not positive, or runs that
            cannot be compared: names two and the difference.
        DataError: no runs, or a record that is missing or altered.
    """
    if not margin > 0:
        raise ConfigError(f"--margin: {margin:g} is out of range; allowed: above 0")
    if not runs:
        raise DataError("no runs were given; a comparison needs those of at least two variants")
    found = outcomes(runs)
    refuse_incomparable(found)
    variants = variants_of(found)
    names = [variant.name for variant in variants]
    if len(variants) < 2:
        raise ConfigError(
            f"all runs given ({len(runs)}) are of one variant, '{names[0]}'; give those of at least two, or the folder "
            "of their experiment"
        )
    base = _baseline(runs, names, baseline)
    ordered = sorted(variants, key=lambda variant: variant.name != base)
    pairs = [Pair(baseline=one, variant=other) for one, other in combinations(ordered, 2)]
    records, tests = judged(pairs, margin)
    warnings = [*_left_out(found), *remarks(found, base), *_sizes(ordered)]
    warnings += [line for variant in ordered for line in variant.warnings()] + untuned(ordered)
    about = {
        "baseline": base,
        "level": LEVEL,
        "margin": margin,
        "speed_up_margin": SPEED_UP_MARGIN,
        "seeds_for_a_claim": SEEDS_FOR_A_CLAIM,
        "tests": tests,
        "warnings": warnings,
        "notes": list(NOTES),
    }
    about["sentence"] = sentence([pair for pair in records if pair["baseline"] == base])
    return {"about": about, "variants": [_variant(variant, ordered[0]) for variant in ordered], "pairs": records}


def _baseline(runs: Sequence[Run], names: Sequence[str], given: str | None) -> str:
    """The variant that was asked for, the experiment's, or the first."""
    if given is not None and given not in names:
        raise ConfigError(f"--baseline: {given!r} is not one of the variants: {', '.join(names)}")
    if given is not None:
        return given
    records = (read_experiment_record(root) for root in dict.fromkeys(run.root.resolve().parent for run in runs))
    recorded = [record["baseline"] for record in records if record and record["baseline"] in names]
    return str([*recorded, *names][0])


def judged(pairs: Sequence[Pair], margin: float = MARGIN) -> tuple[list[Record], int]:
    """The record of each pair, with verdicts adjusted for all others, and the number of tests that took part."""
    asked: list[tuple[Pair, str, Question]] = []
    for pair in pairs:
        asked += [(pair, metric, pair.question(metric, margin)) for metric in pair.metrics]
        asked.append((pair, "", pair.speed_question()))
    verdicts = {
        (pair, metric): verdict
        for (pair, metric, _), verdict in zip(asked, judge([question for *_, question in asked]), strict=True)
    }
    records = [
        {
            "variant": pair.variant.name,
            "baseline": pair.baseline.name,
            "seeds": pair.seeds,
            "no_claim": pair.no_claim,
            "effects": [pair.effect_record(metric, verdicts[pair, metric]) for metric in pair.metrics],
            "speed_up": pair.speed_record(verdicts[pair, ""], verdicts[pair, LOSS]),
        }
        for pair in pairs
    ]
    return records, sum(not question.no_claim for *_, question in asked)


def _left_out(found: Sequence[Outcome]) -> list[str]:
    """Sentences about the runs that are not finished, and those that diverged."""
    open_ends = [f"{one.root.name} ({one.state})" for one in found if not one.finished]
    diverged = [one.root.name for one in found if one.finished and one.diverged]
    lines = [f"Not finished, and left out: {', '.join(open_ends)}"] if open_ends else []
    return lines + (
        [f"Diverged, and counted with the untrained loss or worse: {', '.join(diverged)}"] if diverged else []
    )


def _size(variant: Variant) -> dict[str, float | int | None]:
    """What a variant costs: parameters, FLOPs a token, and tokens of its budget; None where nothing says so."""
    sizes = {"parameters": "parameters", "flops_per_token": "flops_per_token", "tokens": "budget"}
    return {
        name: next((size for one in variant.outcomes if (size := getattr(one, key)) is not None), None)
        for name, key in sizes.items()
    }


def _unequal(variant: Variant, base: Variant) -> list[str]:
    """In what size a variant differs from the baseline."""
    own, other = _size(variant), _size(base)
    return [name for name in own if None not in (own[name], other[name]) and own[name] != other[name]]


def _sizes(variants: Sequence[Variant]) -> list[str]:
    """A sentence for each variant of other parameters or FLOPs than the baseline's."""
    words = {"parameters": "parameters", "flops_per_token": "FLOPs a token", "tokens": "tokens"}
    found = []
    for variant in variants[1:]:
        own, other = _size(variant), _size(variants[0])
        parts = [
            f"{words[name]} {own[name]:,.0f} against {other[name]:,.0f}" for name in _unequal(variant, variants[0])
        ]
        found += [f"{variant.name} and {variants[0].name} are not of equal size: {', '.join(parts)}"] if parts else []
    return found


def _variant(variant: Variant, base: Variant) -> Record:
    """For JSON: size, learning rates, and every run, whether it is finished or not."""
    chosen = {id(one) for one in variant.chosen.values()}
    rates = [
        {
            "learning_rate": rate,
            "mean_loss": variant.mean_loss(rate),
            "seeds": [one.seed for one in runs if one.finished],
        }
        for rate, runs in variant.rates.items()
    ]
    return {
        "name": variant.name,
        **_size(variant),
        "unequal": _unequal(variant, base),
        "learning_rate": variant.learning_rate,
        "learning_rates": rates,
        "runs": [_run(one, id(one) in chosen) for runs in variant.rates.values() for one in runs],
    }


def _run(outcome: Outcome, chosen: bool) -> Record:
    return {
        "folder": outcome.root.name,
        "seed": outcome.seed,
        "learning_rate": outcome.learning_rate,
        "state": outcome.state,
        "final_loss": outcome.final_loss,
        "diverged": outcome.diverged,
        "chosen": chosen,
    }
