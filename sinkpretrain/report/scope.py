"""What a page is about: the runs, the experiment they are part of, and what a comparison of them found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkpretrain.comparison.experiment import read_experiment_record
from sinkpretrain.comparison.verdicts import compare
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.figures.base.arms import config_of
from sinkpretrain.report.tables import imported
from sinkpretrain.runs import Run

IMPORTED = "Models from elsewhere, measured as they are: nothing was trained here."
NOT_BEGUN = "None of the runs has begun: there is nothing to compare yet."


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Runs, variant by variant, and what is known of them together."""

    runs: tuple[Run, ...]
    experiment: dict[str, Any] | None  # the record of the experiment that all runs belong to
    whole: bool  # whether these are all of its runs that have begun
    waiting: tuple[dict[str, Any], ...]  # entries of that record whose runs have not begun
    comparison: dict[str, Any] | None  # what `compare` found
    refusal: str  # why there is no comparison

    @property
    def trained(self) -> tuple[Run, ...]:
        """The runs that were trained here."""
        return tuple(run for run in self.runs if not imported(run))

    def outcome(self, run: Run) -> dict[str, Any]:
        """What the comparison says of one run: its state, `diverged` and more; empty where it says nothing."""
        variants = self.comparison["variants"] if self.comparison else ()
        entries = (entry for variant in variants for entry in variant["runs"])
        return next((entry for entry in entries if entry["folder"] == run.root.name), {})

    @property
    def rates(self) -> dict[str, float | None]:
        """The learning rate that was chosen for each variant of which several were tried."""
        variants = self.comparison["variants"] if self.comparison else ()
        return {one["name"]: one["learning_rate"] for one in variants if len(one["learning_rates"]) > 1}

    @property
    def compared(self) -> tuple[Run, ...]:
        """The runs at each variant's chosen learning rate, which the figures show; all where none was chosen."""
        return tuple(run for run in self.runs if self.at_chosen_rate(run) is not False)

    def at_chosen_rate(self, run: Run) -> bool | None:
        """Whether the run has the learning rate that was chosen for its variant; None where none was to choose."""
        config = config_of(run)
        chosen = self.rates.get(config.variant)
        return None if chosen is None else config.optimizer.learning_rate == chosen


def scope_of(runs: Sequence[Run], root: Path | None = None) -> Scope:
    """What a page about these runs says; `root` is the folder of an experiment, for one of which no run has begun.

    Runs of an experiment that have not begun belong to the page where all those do that have.

    Raises:
        DataError: no runs and no experiment, or a record that cannot be read.
    """
    folders = {run.root.resolve().parent for run in runs}
    root = root if root or len(folders) != 1 else folders.pop()
    experiment = read_experiment_record(root) if root else None
    if not runs and experiment is None:
        raise DataError("no runs were given; a report needs at least one run folder")
    waiting: list[dict[str, Any]] = []
    begun: set[Path] = set()
    for entry in experiment["runs"] if experiment and root else ():
        folder = (root / entry["folder"]).resolve()
        if (folder / "config.yaml").is_file():
            begun.add(folder)
        else:
            waiting.append(entry)
    whole = experiment is not None and begun <= {run.root.resolve() for run in runs}
    comparison, refusal = _compared(runs)
    variants = list(dict.fromkeys(config_of(run).variant for run in runs))
    return Scope(
        runs=tuple(sorted(runs, key=lambda run: variants.index(config_of(run).variant))),
        experiment=experiment,
        whole=whole,
        waiting=tuple(waiting if whole else ()),
        comparison=comparison,
        refusal=refusal,
    )


def _compared(runs: Sequence[Run]) -> tuple[dict[str, Any] | None, str]:
    """The comparison of the runs that were trained here, or why there is none."""
    trained = [run for run in runs if not imported(run)]
    if not trained:
        return None, IMPORTED if runs else NOT_BEGUN
    try:
        return compare(trained), ""
    except (ConfigError, DataError) as error:
        return None, f"No comparison: {error}."
