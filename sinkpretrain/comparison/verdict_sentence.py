"""The verdicts on training runs in sentences, for people."""

from collections.abc import Sequence
from typing import Any

from sinkpretrain.comparison.outcomes_of_runs import LOSS

Record = dict[str, Any]


def sentence(pairs: Sequence[Record]) -> str:
    """What each variant's final loss and speed are against the baseline's: a sentence for each of these pairs."""
    return " ".join(f"{_pair(pair)}." for pair in pairs)


def _pair(pair: Record) -> str:
    loss, speed = next(one for one in pair["effects"] if one["metric"] == LOSS), pair["speed_up"]
    if loss["mean"] is None:
        return f"No claim about {pair['variant']} against {pair['baseline']}: {loss['reason']}"
    count = len(pair["seeds"])
    difference, speed_found = _loss(pair, loss), _speed(pair, speed)
    if loss["word"] == "no claim":
        about = f"No claim about {pair['variant']} against {pair['baseline']} ({loss['reason']})"
        return f"{about}: here {difference}, {speed_found}"
    return f"{difference} ({count} seeds, {loss['word']}), {speed_found}"


def _loss(pair: Record, loss: Record) -> str:
    """`head_rmsnorm's validation loss is 0.039 nats lower than softmax's [0.021, 0.057]`."""
    own, other = f"{pair['variant']}'s validation loss is", f"{pair['baseline']}'s"
    if not loss["mean"]:
        return f"{own} equal to {other}"
    lower = loss["mean"] < 0
    ends = loss["interval"] and sorted(-end if lower else end for end in loss["interval"])
    return f"{own} {abs(loss['mean']):.3f} nats {'lower' if lower else 'higher'} than {other}{_ends(ends)}"


def _speed(pair: Record, speed: Record) -> str:
    """How many times the baseline's tokens the variant needs for the baseline's final loss."""
    target = f"{pair['baseline']}'s final loss"
    if speed["ratio"] is not None:
        ends = speed["interval"] and sorted(1 / end for end in speed["interval"])
        word = "" if speed["word"] == "no claim" else f" ({speed['word']})"
        return f"and it reaches {target} with {1 / speed['ratio']:.2f} times the tokens{_ends(ends, 2)}{word}"
    with_target = [own is not None for own in speed["baseline_tokens"]]
    if not any(with_target):
        return f"and {pair['baseline']} has no final loss to reach"
    count, reached = sum(with_target), sum(with_target) - speed["censored"]
    if reached:
        return f"and it reaches {target} within its budget in {reached} of {count} seeds"
    word = " (harm)" if speed["word"] == "harm" else ""
    if count == 1:
        return f"and it does not reach {target} within its budget"
    return f"and it reaches {target} within its budget in none of the {count} seeds{word}"


def _ends(interval: Sequence[float] | None, digits: int = 3) -> str:
    return f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
