"""What a training run came to: its state, final loss, the tokens it took to reach a loss, its sinks at the end.

Letters: K validations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sinkpretrain.comparison.experiment import read_experiment_record
from sinkpretrain.comparison.members import final_state
from sinkpretrain.comparison.soundness import refuse_altered
from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.statistics import Values
from sinkpretrain.runs import Run

LOSS, SKIPPED = "val/loss", "optim/skipped"
PROBED = {  # of the last probe, with headings; attention is that of rows divided by their sum, as rows compare so
    "sink/rate_normalised": "sink rate (share of sequences, layers and heads)",
    "sink/first_token_mean_normalised": "first-token attention (share of a row)",
    "rank/effective_mean": "effective rank (mean over layers)",
    "activation/dominance_mean": "dominance ratio (mean over layers)",
}
EMPTY = np.empty(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """One run, whether it is finished or not.

    A run whose loss became NaN or infinite counts as finished: it never reaches any loss, its final loss is the
    untrained model's or the last recorded one, whichever is worse, and it has no sinks, since they were not trained to
    the end.
    """

    root: Path
    variant: str
    seed: int
    learning_rate: float
    state: str  # of status.json, or `waiting`
    config: Config | None = None  # None: waiting
    diverged: bool = False
    final_loss: float | None = None  # nats a token; None: not finished
    tokens_K: Values = field(default_factory=lambda: EMPTY)
    loss_K: Values = field(default_factory=lambda: EMPTY)
    probed: dict[str, float] = field(default_factory=dict)  # those of PROBED that were recorded
    skipped: int = 0  # updates that were left out
    parameters: int | None = None
    flops_per_token: float | None = None

    @property
    def finished(self) -> bool:
        """Whether the run takes part in comparisons."""
        return self.final_loss is not None

    @property
    def budget(self) -> int | None:
        """Tokens of the whole run; None: waiting."""
        return self.config.steps * self.config.tokens_per_step if self.config else None

    def tokens_to(self, target: float) -> float | None:
        """Tokens at which the validation loss first is at the target or below, between two validations by a line.

        None where it never is.
        """
        reached = np.flatnonzero(self.loss_K <= target)
        if self.diverged or not len(reached):
            return None
        at = int(reached[0])
        if at == 0 or self.loss_K[at] == target:
            return float(self.tokens_K[at])
        (before, after), (start, end) = self.loss_K[at - 1 : at + 1], self.tokens_K[at - 1 : at + 1]
        return float(start + (before - target) / (before - after) * (end - start))


def outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """What the runs came to, by variant in the order of the experiment, or in the order given where there is no record.

    Where all runs of an experiment that have begun are given, those that have not are among them, as `waiting`.

    Raises:
        ConfigError: an imported model, or two runs of one variant, seed and learning rate.
        DataError: a finished run without a validation loss, or a record that contradicts itself.
    """
    found = [outcome(run) for run in runs]
    for run in runs:
        refuse_altered(run, LOSS)
    names: dict[str, None] = {}
    for root in dict.fromkeys(run.root.resolve().parent for run in runs):
        record = read_experiment_record(root)
        names |= dict.fromkeys(row["variant"] for row in record["runs"]) if record else {}
        found += _waiting(record["runs"], root, runs) if record else []
    names |= dict.fromkeys(one.variant for one in found)
    _refuse_twice(found)
    place = {name: number for number, name in enumerate(names)}
    return sorted(found, key=lambda one: place[one.variant])


def outcome(run: Run) -> Outcome:
    """What one run came to.

    Raises:
        ConfigError: an imported model.
        DataError: a finished run without a validation loss.
    """
    if run.source_path.is_file():
        raise ConfigError(
            f"{run.root}: is an imported model, which was not trained here and has no curve to compare; give runs of "
            "sinkpretrain train or sweep (compare --act takes imported models)"
        )
    config, status, rows = run.config(), run.status(), run.metrics()
    state = status.get("state", "waiting")
    curve_K2 = np.array([(row["tokens"], row[LOSS]) for row in rows if LOSS in row], dtype=np.float64).reshape(-1, 2)
    whole_K2 = curve_K2[np.isfinite(curve_K2[:, 1])]
    diverged = final_state(status) == "diverged"
    diverged |= state == "done" and len(curve_K2) > 0 and not np.isfinite(curve_K2[-1, 1])
    if state == "done" and not len(whole_K2):
        raise DataError(f"{run.metrics_path}: has no {LOSS}, though the run is done; the record was altered")
    final = None
    if len(whole_K2) and (diverged or state == "done"):
        final = float(whole_K2[[0, -1], 1].max() if diverged else whole_K2[-1, 1])
    return Outcome(
        root=run.root,
        variant=config.variant,
        seed=config.seed,
        learning_rate=config.optimizer.learning_rate,
        state=state,
        config=config,
        diverged=diverged,
        final_loss=final,
        tokens_K=whole_K2[:, 0],
        loss_K=whole_K2[:, 1],
        probed={} if diverged else _last(rows, PROBED),
        skipped=int(_last(rows, [SKIPPED]).get(SKIPPED, 0)),
        parameters=status.get("parameters"),
        flops_per_token=status.get("flops_per_token"),
    )


def _last(rows: Sequence[dict[str, float]], names: Iterable[str]) -> dict[str, float]:
    """The last recorded value of each of these metrics, where it is a number."""
    found = {name: row[name] for row in rows for name in names if name in row}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _waiting(members: Sequence[dict[str, Any]], root: Path, runs: Sequence[Run]) -> list[Outcome]:
    """The runs of an experiment that have not begun; none where only a part of the others is given."""
    given = {run.root.resolve() for run in runs}
    begun = {member["folder"] for member in members if Run(root / member["folder"]).config_path.is_file()}
    if not all(root / folder in given for folder in begun):
        return []
    return [
        Outcome(
            root=root / member["folder"],
            variant=member["variant"],
            seed=member["seed"],
            learning_rate=member["learning_rate"],
            state="waiting",
        )
        for member in members
        if member["folder"] not in begun
    ]


def _refuse_twice(found: Sequence[Outcome]) -> None:
    seen: dict[tuple[str, int, float], Outcome] = {}
    for one in found:
        key = (one.variant, one.seed, one.learning_rate)
        if key in seen:
            raise ConfigError(
                f"{seen[key].root} and {one.root} are both '{one.variant}' with seed {one.seed} and learning rate "
                f"{one.learning_rate:g}; give one of them"
            )
        seen[key] = one
