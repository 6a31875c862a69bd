"""Do the gains of ACT persist across architectures: for every variant vanilla, ACT, its controls, and a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from sinkpretrain.comparison.act_records import CONDITIONS, CONTROLS, RULES, Variant, task_sets_of, variants_of
from sinkpretrain.comparison.act_soundness import remarks, search_of
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.statistics import LEVEL, MARGIN, Effect, Verdict, verdicts
from sinkpretrain.records import VANILLA
from sinkpretrain.runs import Run

SEEDS_FOR_A_CLAIM = 3
ADJUSTED = (
    "verdicts by Holm-adjusted p-values: of no effect and of an effect as large as the margin, over variants and rules "
    "for the means over tasks, over tasks within a variant and rule, and over the other metrics within a variant and "
    "rule; intervals are not adjusted, those against controls are no verdicts"
)

Record = dict[str, Any]


def persistence(
    runs: Sequence[Run], task_sets: Sequence[str] = (), metric: str = "acc", margin: float = MARGIN
) -> Record:
    """The record of a comparison: `about`, `variants`, and `answers` in sentences, one a rule of choosing heads.

    Runs of one variant are its seeds, an imported model is a variant of its own. Tasks have equal weight in means.

    Args:
        runs: with a head search, and evaluated without and with ACT and its controls on the same items.
        task_sets: names of evaluation records; none: the one that all runs share.
        metric: what the verdicts are about.
        margin: `no gain` says that the effect is below it, in the unit of the metric.

    Raises:
        ConfigError: no task has the metric, several task sets to choose from, or a margin that is not positive.
        DataError: a record is missing, or runs were evaluated differently.
    """
    if not margin > 0:
        raise ConfigError(f"--margin: {margin:g} is out of range; allowed: above 0")
    if not runs:
        raise DataError("no runs were given; a comparison needs at least one")
    task_sets = task_sets_of(runs, task_sets)
    variants = variants_of(runs, task_sets)
    first = variants[0]
    if metric not in first.metrics():
        raise ConfigError(f"--metric: no task has '{metric}'; these records have {', '.join(first.metrics())}")
    searches = [list(map(search_of, variant.runs, variant.records)) for variant in variants]
    heads = [_heads(variant, of) for variant, of in zip(variants, searches, strict=True)]
    tasks = first.tasks(metric)
    about = {
        "task_sets": task_sets,
        "tasks": {task: {"items": _items(first, task), "chance": first.chance[task]} for task in tasks},
        "left_out": [task for task in first.values[VANILLA] if task not in tasks],
        "fewshot": first.fewshot,
        "metric": metric,
        "margin": margin,
        "level": LEVEL,
        "adjusted": ADJUSTED,
        "warnings": _warnings(variants, searches),
    }
    found = [_variant(variant, of, metric, margin) for variant, of in zip(variants, heads, strict=True)]
    places = [(variant, rule) for variant in range(len(variants)) for rule in RULES]
    effects = [variants[place].difference(metric, rule, VANILLA, tasks) for place, rule in places]
    reasons = [_no_op(variants[place], heads[place], rule) for place, rule in places]
    for (place, rule), verdict in zip(places, verdicts(effects, margin, reasons), strict=True):
        found[place]["conditions"][rule]["verdict"] = _verdict(verdict)
    record = {"about": about, "variants": found}
    return record | {"answers": {rule: _answer(found, rule) for rule in RULES}}


def _warnings(variants: Sequence[Variant], searches: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    runs = [run for variant in variants for run in variant.runs]
    models = [record["about"]["model"] for variant in variants for record in variant.records]
    return remarks(runs, models, [search for of_variant in searches for search in of_variant])


def _items(variant: Variant, task: str) -> int:
    return int(next(iter(variant.values[VANILLA][task].values())).shape[1])


def _heads(variant: Variant, searches: Sequence[Mapping[str, Any]]) -> Record:
    """How many heads each run had, how many ever saw a later sink in the search, and how many were calibrated."""
    eligible, saw_sink = [], []
    for run, search in zip(variant.runs, searches, strict=True):
        first, last = search["layers"]
        eligible.append((last - first + 1) * run.config().model.n_heads)
        saw_sink.append(int(search["saw_sink"]))
    chosen = {rule: list(variant.heads[rule]) for rule in RULES}
    return {"eligible": eligible, "saw_sink": saw_sink, "chosen": chosen}


def _no_op(variant: Variant, heads: Record, rule: str) -> str:
    return "no head ever saw a later sink" if not any(heads["saw_sink"]) else variant.no_op(rule)


def _verdict(verdict: Verdict) -> Record:
    return {"word": verdict.word, "p_adjusted": verdict.p} | ({"reason": verdict.reason} if verdict.reason else {})


def _level(effect: Effect) -> Record:
    return {"mean": effect.mean, "standard_error": effect.standard_error}


def _variant(variant: Variant, heads: Record, metric: str, margin: float) -> Record:
    """Everything of a variant but the verdicts on its means, which stand beside those of others."""
    tasks, seeds = variant.tasks(metric), len(variant.runs)
    conditions: dict[str, Record] = {}
    for condition in CONDITIONS:
        conditions[condition] = _level(variant.level(metric, condition, tasks))
        if condition != VANILLA:
            conditions[condition]["minus_vanilla"] = variant.difference(metric, condition, VANILLA, tasks).record()
    for control in CONTROLS:
        conditions[control]["act_minus_it"] = variant.difference(metric, RULES[0], control, tasks).record()
    others = [name for name in variant.metrics() if name != metric]
    return {
        "variant": variant.name,
        "runs": [str(run.root) for run in variant.runs],
        "seeds": seeds,
        "concerns": "the variant"
        if seeds >= SEEDS_FOR_A_CLAIM
        else "these checkpoints"
        if seeds > 1
        else "this checkpoint",
        "heads": heads,
        "chance": sum(variant.chance[task] for task in tasks) / len(tasks),
        "conditions": conditions,
        "tasks": _side_by_side(variant, heads, margin, {task: (metric, [task]) for task in tasks}),
        "metrics": _side_by_side(variant, heads, margin, {name: (name, variant.tasks(name)) for name in others}),
    }


def _side_by_side(
    variant: Variant, heads: Record, margin: float, asked: Mapping[str, tuple[str, Sequence[str]]]
) -> dict[str, Record]:
    """Vanilla and both rules for each of several (metric, tasks), with verdicts adjusted for one another."""
    found: dict[str, Record] = {
        name: {
            "chance": sum(variant.chance[task] for task in tasks) / len(tasks),
            "vanilla": _level(variant.level(metric, VANILLA, tasks)),
        }
        for name, (metric, tasks) in asked.items()
    }
    for rule in RULES:
        effects = [variant.difference(metric, rule, VANILLA, tasks) for metric, tasks in asked.values()]
        reasons = [_no_op(variant, heads, rule)] * len(effects)
        for name, effect, verdict in zip(asked, effects, verdicts(effects, margin, reasons), strict=True):
            found[name][rule] = {"minus_vanilla": effect.record(), "verdict": _verdict(verdict)}
    return found


def _answer(variants: Sequence[Record], rule: str) -> str:
    """Whether the gains of a rule persist: the verdicts of all variants in words, and what they do not carry."""
    said: dict[str, list[str]] = {}
    for variant in variants:
        verdict = variant["conditions"][rule]["verdict"]
        reason = f" ({verdict['reason']})" if "reason" in verdict else ""
        said.setdefault(verdict["word"] + reason, []).append(variant["variant"])
    listed = "; ".join(f"{word} in {', '.join(names)}" for word, names in said.items())
    gains = said.get("gain", [])
    sentences = [f"{rule}: {listed}", _persists(gains, said), *_beyond_controls(variants, rule, gains)]
    few = [f"{one['variant']} {one['seeds']}" for one in variants if one["seeds"] < SEEDS_FOR_A_CLAIM]
    if few:
        sentences.append(
            f"No claim about variants with fewer than {SEEDS_FOR_A_CLAIM} seeds ({', '.join(few)}): their verdicts "
            "concern the checkpoints that were evaluated"
        )
    return ". ".join(sentences) + "."


def _persists(gains: Sequence[str], said: Mapping[str, Sequence[str]]) -> str:
    """The answer that the verdicts give: variants in which nothing was calibrated count neither way."""
    against = [name for word in ("no gain", "harm") for name in said.get(word, ())]
    undecided = said.get("inconclusive", [])
    if not gains and not undecided:
        return "There is no gain that could persist"
    if not gains:
        return f"No gain is shown, nor is one excluded in {', '.join(undecided)}"
    if against:
        return f"The gain of {', '.join(gains)} does not persist in {', '.join(against)}"
    if undecided:
        return f"Whether the gain of {', '.join(gains)} persists in {', '.join(undecided)} is undecided"
    judged = f"{len(gains)} variants" if len(gains) > 1 else "one variant"
    return f"A gain is shown wherever something was calibrated, in {judged}"


def _beyond_controls(variants: Sequence[Record], rule: str, gains: Sequence[str]) -> list[str]:
    """What is not shown of gains: that they exceed what the controls of the first rule do."""
    if rule != RULES[0]:
        return []
    short = [
        f"{control} in {one['variant']}"
        for one in variants
        for control in CONTROLS
        if one["variant"] in gains and one["conditions"][control]["act_minus_it"]["interval"][0] <= 0
    ]
    return [f"Not shown to exceed the control: {', '.join(short)}"] if short else []
