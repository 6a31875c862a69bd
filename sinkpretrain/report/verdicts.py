"""Tables of a comparison: what each variant is, its learning rates, and every difference seed by seed."""

from collections.abc import Sequence
from html import escape
from typing import Any

from sinkpretrain.errors import DataError
from sinkpretrain.report.scope import Scope
from sinkpretrain.report.story import figure
from sinkpretrain.report.tables import NOTHING, Html, mark, number, table

Record = dict[str, Any]
NOT_REACHED = "not reached"
BETTER, WORSE = ("gain",), ("harm",)


FIGURE = "verdicts"  # what shows the same


def verdicts(scope: Scope) -> str:
    """The figure of the comparison, then its tables; empty where nothing was compared."""
    if scope.comparison is None:
        return ""
    try:
        drawn = figure(FIGURE, scope.trained, "")
    except DataError:  # nothing is finished
        drawn = ""
    return drawn + verdict_tables(scope.comparison)


def verdict_tables(comparison: Record) -> str:
    """The variants side by side, their learning rates where there were several, and a table for each pair."""
    about, variants = comparison["about"], comparison["variants"]
    pairs = "".join(_pair(pair, about) for pair in comparison["pairs"])
    return _variants(variants) + _learning_rates(variants) + pairs + _words(about)


def _variants(variants: Sequence[Record]) -> str:
    """Parameters, operations and tokens of each variant; a column that should be equal and is not is marked."""
    columns = {
        "parameters": [number(variant["parameters"], ",.0f") for variant in variants],
        "FLOPs a token": [number(variant["flops_per_token"], ",.0f") for variant in variants],
        "tokens": [number(variant["tokens"], ",.0f") for variant in variants],
        "learning rate": [number(variant["learning_rate"], "g") for variant in variants],
        "learning rates tried": [str(len(variant["learning_rates"])) for variant in variants],
        "seeds": [_seeds(_chosen(variant)) for variant in variants],
        "diverged": [str(sum(run["diverged"] for run in variant["runs"])) for variant in variants],
    }
    equal = ("parameters", "FLOPs a token", "tokens", "learning rates tried", "seeds")
    headings = [f"{name} (unequal)" if name in equal and len(set(of)) > 1 else name for name, of in columns.items()]
    rows = [[str(variant["name"]), *(of[place] for of in columns.values())] for place, variant in enumerate(variants)]
    return table("What is compared: each variant at its learning rate.", ["variant", *headings], rows)


def _learning_rates(variants: Sequence[Record]) -> str:
    """The mean final loss of each variant at each learning rate; empty where none was tried twice."""
    if all(len(variant["learning_rates"]) < 2 for variant in variants):
        return ""
    rows = [
        [
            str(variant["name"]),
            f"{rate['learning_rate']:g}",
            number(rate["mean_loss"], ".4f"),
            ", ".join(map(str, rate["seeds"])) or NOTHING,
            mark("chosen", "done") if rate["learning_rate"] == variant["learning_rate"] else "",
        ]
        for variant in variants
        for rate in variant["learning_rates"]
    ]
    caption = "The learning-rate sweep: mean final validation loss (nats a token) over the finished seeds."
    return table(caption, ["variant", "learning rate", "mean loss", "seeds", ""], rows)


def _pair(pair: Record, about: Record) -> str:
    """A variant against a baseline: each metric's values seed by seed, their difference, and the word for it."""
    variant, baseline = pair["variant"], pair["baseline"]
    headings = [
        "metric",
        "seed",
        baseline,
        variant,
        "mean difference",
        f"{about['level']:.0%} interval",
        "p",
        "p (Holm)",
        "verdict",
        "reason",
    ]
    seeds = pair["seeds"]
    rows = [_effect(effect, seeds) for effect in pair["effects"]] + [_speed_up(pair["speed_up"], seeds, baseline)]
    caption = f"Each seed's last values, and differences: {variant} less {baseline}."
    return f"<h3>{escape(f'{variant} against {baseline}')}</h3>\n" + table(caption, headings, rows, "verdicts")


def _effect(effect: Record, seeds: Sequence[int]) -> list[str]:
    """A row of one metric."""
    return [
        effect["heading"],
        _values(seeds, "d"),
        _values(effect["baseline_values"], "#.5g"),
        _values(effect["variant_values"], "#.5g"),
        _signed(effect["mean"]),
        _interval(effect["interval"], _signed),
        _chance(effect["p"]),
        _chance(effect["p_holm"]),
        _word(effect["word"]),
        effect["reason"],
    ]


def _speed_up(speed_up: Record, seeds: Sequence[int], baseline: str) -> list[str]:
    """The row of the tokens that the variant needs to reach the baseline's final loss."""
    return [
        f"tokens to the final loss of {baseline}, and the speed-up",
        _values(seeds, "d"),
        _values(speed_up["baseline_tokens"], ",.0f", NOT_REACHED),
        _values(speed_up["variant_tokens"], ",.0f", NOT_REACHED),
        _times(speed_up["ratio"]),
        _interval(speed_up["interval"], _times),
        _chance(speed_up["p"]),
        _chance(speed_up["p_holm"]),
        _word(speed_up["word"]),
        speed_up["reason"],
    ]


def _words(about: Record) -> str:
    """What the words stand for, and the notes of the comparison."""
    words = (
        f"Under {about['seeds_for_a_claim']} seeds the word is 'no claim'. 'no gain' says that the loss is lower by "
        f"less than {about['margin']:g} nats a token; where neither that nor a difference is shown, it is "
        "'inconclusive'. A speed-up is how many times fewer tokens the variant needs; "
        f"'{NOT_REACHED}': not within its budget."
    )
    listed = "".join(f"<li>{escape(text)}</li>\n" for text in (words, *about.get("notes", ())))
    return f'<ul class="note">{listed}</ul>\n'


def _chosen(variant: Record) -> list[Record]:
    return [run for run in variant["runs"] if run["chosen"]]


def _seeds(runs: Sequence[Record]) -> str:
    return ", ".join(str(run["seed"]) for run in runs) or NOTHING


def _values(values: Sequence[float | None], form: str, missing: str = NOTHING) -> Html:
    """Numbers in the order of the seeds, a line each."""
    texts = [missing if value is None else f"{value:{form}}" for value in values]
    return Html("\n".join(f"<span>{escape(text)}</span>" for text in texts) or NOTHING)


def _signed(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:{'+,.0f' if abs(value) >= 1000 else '+#.3g'}}".replace("-", "\N{MINUS SIGN}")


def _times(value: float | None) -> str:
    return NOTHING if value is None else f"{value:#.3g}\N{MULTIPLICATION SIGN}"


def _interval(interval: Sequence[float | None] | None, form: Any) -> str:
    return NOTHING if interval is None else f"{form(interval[0])} to {form(interval[1])}"


def _chance(p: float | None) -> str:
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _word(word: str) -> Html:
    return mark(word, "done" if word in BETTER else "failed" if word in WORSE else "plain")
