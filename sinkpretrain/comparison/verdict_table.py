"""The record of verdicts on training runs as text for a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from sinkpretrain.comparison.outcomes_of_runs import LOSS

WIDTH = 100  # characters
NAME = 26  # of the first column
SHORT = {  # headings that fit their column
    LOSS: "validation loss (nats)",
    "sink/rate_normalised": "sink rate",
    "sink/first_token_mean_normalised": "first-token attention",
    "rank/effective_mean": "effective rank",
    "activation/dominance_mean": "dominance ratio",
}
ESTIMATE, P, ADJUSTED = 34, 9, 10  # characters of a column

Record = dict[str, Any]


def table(record: Record) -> str:
    """Variants with their runs, every pair with each seed's values, warnings, notes, and the answer."""
    about, variants = record["about"], record["variants"]
    sections = [_variants(variants), *(_pair(pair) for pair in record["pairs"])]
    sections += [[line for text in about["warnings"] for line in _item(f"! {text}.")]] if about["warnings"] else []
    margins = (
        f"'no gain' says that the loss is lower by less than {about['margin']:g} nats, or the speed-up below "
        f"{about['speed_up_margin']:g}; under {about['seeds_for_a_claim']} shared seeds there is no claim."
    )
    sections += [[line for text in (*about["notes"], margins) for line in _item(f"- {text}")]]
    sections += [textwrap.wrap(about["sentence"], WIDTH)]
    return "\n\n".join("\n".join(section) for section in sections)


def _variants(variants: Sequence[Record]) -> list[str]:
    """Size and learning rates of each variant, then each run's final loss."""
    lines = [f"{'variant':<{NAME}}{'parameters':>14}{'FLOPs a token':>16}{'tokens':>18}{'learning rate':>16}"]
    for one in variants:
        cells = [
            _size(one, "parameters", 14),
            _size(one, "flops_per_token", 16),
            _size(one, "tokens", 18),
            f"{'none' if one['learning_rate'] is None else format(one['learning_rate'], 'g'):>16}",
        ]
        lines.append(f"{_cut(one['name'], NAME):<{NAME}}{''.join(cells)}")
    if any(one["unequal"] for one in variants):
        lines.append(f"* not that of {variants[0]['name']}")
    lines += ["", "final validation loss of each run (nats a token), by seed"]
    for one in variants:
        lines += _runs(one)
    return lines


def _size(variant: Record, name: str, width: int) -> str:
    mark = "*" if name in variant["unequal"] else ""
    return f"{'?' if variant[name] is None else format(variant[name], ',.0f') + mark:>{width}}"


def _runs(variant: Record) -> list[str]:
    """A line for each learning rate; the one that is compared is marked where there are several."""
    lines = []
    for rate in variant["learning_rates"]:
        several = len(variant["learning_rates"]) > 1
        chosen = " (best)" if several and rate["learning_rate"] == variant["learning_rate"] else ""
        mean = "" if rate["mean_loss"] is None else f"mean {rate['mean_loss']:.4f}{chosen}   "
        runs = [_run(one) for one in variant["runs"] if one["learning_rate"] == rate["learning_rate"]]
        name = f"{variant['name']} at {rate['learning_rate']:g}" if several else variant["name"]
        lines += _item(f"{_cut(name, NAME):<{NAME}}{mean}{'  '.join(runs)}", NAME)
    return lines


def _run(run: Record) -> str:
    value = f"{run['final_loss']:.4f}" if run["final_loss"] is not None else run["state"]
    return f"{run['seed']}: {value}{' (diverged)' if run['diverged'] else ''}"


def _pair(pair: Record) -> list[str]:
    """One metric after the other: the estimate and the verdict, then what it comes from."""
    seeds = ", ".join(map(str, pair["seeds"])) or "none"
    lines = textwrap.wrap(f"{pair['variant']} against {pair['baseline']}; shared seeds: {seeds}", WIDTH)
    speed = pair["speed_up"]
    lines += _item(f"  no claim: {pair['no_claim']}") if pair["no_claim"] else []
    lines.append(
        f"  {'minus baseline':<{NAME - 2}}{'mean [95 %]':<{ESTIMATE}}{'p':<{P}}{'p (Holm)':<{ADJUSTED}}verdict"
    )
    for effect in pair["effects"]:
        digits = _digits([*effect["baseline_values"], *effect["variant_values"]])
        estimate = _estimate(effect["mean"], effect["interval"], f"+.{digits}f")
        lines.append(_row(SHORT.get(effect["metric"], effect["metric"]), estimate, effect))
        lines += _values(pair["seeds"], effect["baseline_values"], effect["variant_values"], f".{digits}f")
        lines += _reason(effect, pair["no_claim"])
    ratio = "not reached" if speed["censored"] else "no target"
    estimate = _estimate(speed["ratio"], speed["interval"], ".3f") if speed["ratio"] is not None else ratio
    lines.append(_row("speed-up (times)", estimate, speed))
    lines += _values(pair["seeds"], speed["baseline_tokens"], speed["variant_tokens"], ",.0f", " tokens")
    return [*lines, *_reason(speed, pair["no_claim"])]


def _row(name: str, estimate: str, of: Record) -> str:
    p = ["" if of[key] is None else f"{of[key]:.2g}" for key in ("p", "p_holm")]
    return f"  {name:<{NAME - 2}}{estimate:<{ESTIMATE}}{p[0]:<{P}}{p[1]:<{ADJUSTED}}{of['word']}"


def _estimate(mean: float | None, interval: Sequence[float] | None, form: str) -> str:
    if mean is None:
        return "not recorded"
    return f"{mean:{form}}" + (f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else "")


def _values(seeds: Sequence[int], before: Sequence[Any], after: Sequence[Any], form: str, unit: str = "") -> list[str]:
    """`0: 3.8266 -> 3.8989`, from the baseline to the variant, for each seed."""

    def one(value: float | None) -> str:
        return "none" if value is None else f"{value:{form}}"

    values = [f"{seed}: {one(own)} -> {one(other)}" for seed, own, other in zip(seeds, before, after, strict=True)]
    # One string a seed must not be broken: spaces inside are made hard until the lines are.
    joined = "   ".join(value.replace(" ", "\0") for value in values) + unit
    return [line.replace("\0", " ") for line in _item(f"    {joined}", 4)] if values else []


def _reason(of: Record, said: str) -> list[str]:
    """Why the word is what it is, but what was said of the whole pair."""
    reason = of["reason"].removeprefix(said).removeprefix("; ")
    return _item(f"    {reason}", 4) if reason else []


def _digits(values: Sequence[float | None]) -> int:
    """Decimal places that show about five digits of the largest."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 4 if largest < 10 else 3 if largest < 100 else 1


def _cut(name: str, width: int) -> str:
    """A name that leaves a space in its column."""
    return name if len(name) < width else f"{name[: width - 4]}..."


def _item(text: str, indent: int = 2) -> list[str]:
    """Lines of the width, the later ones indented; spaces inside stay."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
