"""One intervention at its strengths, beside the untouched model and its controls, over samples of text."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.files import write_json
from sinkpretrain.intervening.reading import Condition, read_condition
from sinkpretrain.interventions.base import NeuronOptions, chosen_layers, chosen_neurons
from sinkpretrain.metrics.super_neurons import DEVIATIONS
from sinkpretrain.records import UNTOUCHED
from sinkpretrain.subject import Subject

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What the experiment of one intervention is made of where the user says nothing else."""

    position: int
    layers: tuple[int, ...] | None  # None: all
    strengths: tuple[float, ...]


# Each intervention that is an experiment of its own; the others are controls inside it.
SWEEPS = {
    "isolate_position": Sweep(position=10, layers=None, strengths=(1.0,)),
    "amplify_variance": Sweep(position=10, layers=(0,), strengths=(1.0, 2.0, 5.0, 10.0, 20.0, 50.0)),
    "ablate_super_neurons": Sweep(position=0, layers=None, strengths=(1.0,)),
    "densify_down_projection": Sweep(position=0, layers=None, strengths=(1.0,)),
}


def usual_sweep(name: str) -> Sweep:
    """The sweep of an intervention where the user says nothing else.

    Raises:
        ConfigError: an intervention that is only a control, or none at all.
    """
    if name not in SWEEPS:
        raise ConfigError(f"--with: {name!r} is not one of {', '.join(SWEEPS)}; the others run as controls")
    return SWEEPS[name]


# Interventions on neurons, with the name of their control.
NEURONS = {"ablate_super_neurons": "random_neurons", "densify_down_projection": "random_densified"}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One intervention with its sweep and the text to run it on.

    Raises:
        ConfigError: an intervention that is only a control, or a sweep that it cannot have.
    """

    name: str
    positions: Sequence[int]
    layers: Sequence[int] | None
    strengths: Sequence[float]
    controls: bool = True
    at: Literal["all", "first", "others"] = "all"  # of interventions on neurons: at which positions
    seeds: int = 4  # samples of text, without overlap
    sequences: int = 32  # a sample

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        usual_sweep(self.name)
        if self.name == "amplify_variance" and (self.layers is None or len(self.layers) != 1):
            raise ConfigError("--layer: amplify_variance acts in one layer; give one")
        if self.name == "isolate_position" and list(self.strengths) != [1.0]:
            raise ConfigError("--strength: has no effect on isolate_position; leave it out")
        if self.at != "all" and self.name not in NEURONS:
            raise ConfigError(f"--at: has no effect on {self.name}; leave it out")
        for key in ("seeds", "sequences"):
            if getattr(self, key) < 1:
                raise ConfigError(f"--{key}: {getattr(self, key)} is out of range; allowed: >= 1")


def run_experiment(
    subject: Subject, experiment: Experiment, progress: Callable[[int, str], None] = lambda seed, condition: None
) -> dict[str, Any]:
    """Run an experiment, write `<run>/interventions/<name>.json` and return what it holds: `about` and `rows`.

    A row is one condition, position and sample of text. Of the position: `received`, ACT's attention score (mean over
    sequences, layers and heads of rows divided by their sum; `received_raw`: of raw weights), `sink_rate` (share of
    (sequence, layer, head) whose score is above 0.3), `dominance` and `neuron_peak` (largest |mlp_hidden|), the largest
    layer of means over sequences. The same of position 0: `first_token_attention` (mean over queries t >= 1 of the
    weight on it), `sink_rate_first`, `dominance_first`, `neuron_peak_first`. Of all: `perplexity`, and
    `entropy_others`, the mean entropy in nats of the rows of queries t >= 1 other than the position's. By position
    `score_by_position`; by layer `score_by_layer` (at the position) and `first_by_layer`. `changed` says whether the
    condition changed anything; `about.changed_nothing` names those that never did, of which a warning tells too.

    Raises:
        ConfigError: a layer or position that the model or the text does not have.
        DataError: too little text for samples without overlap.
    """
    tokens, last = subject.windows.context_length, subject.windows.context_length - 1
    for position in experiment.positions:
        if not 0 <= position < last:
            raise ConfigError(f"--position: {position} is out of range; allowed: 0 .. {last - 1} of {tokens} tokens")
    wanted = experiment.seeds * experiment.sequences
    if wanted > len(subject.windows):
        raise DataError(
            f"{subject.windows.store.root}: has {len(subject.windows)} windows of {tokens} tokens, {experiment.seeds} "
            f"samples of {experiment.sequences} need {wanted}; lower --seeds or --sequences, or give more text"
        )
    about, rows = _about(subject, experiment), []
    for seed in range(experiment.seeds):
        batch = subject.batch(subject.windows.ids(seed, experiment.sequences))
        for position in experiment.positions:
            for condition in conditions(experiment, position, seed):
                row = {"condition": condition.name, "strength": condition.strength, "position": position, "seed": seed}
                rows.append(row | read_condition(subject.model, condition, batch, position))
                progress(seed, f"{condition.name} {condition.strength or ''}".strip())
    about["changed_nothing"] = changed_nothing(rows)
    if about["changed_nothing"]:
        named = ", ".join(about["changed_nothing"])
        logger.warning(
            "%s: %s changed nothing in any row, which are those of the untouched model", subject.run.root, named
        )
    record = {"about": about, "rows": rows}
    write_json(subject.run.intervention_path(experiment.name), record)
    return record


def changed_nothing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The conditions with an intervention of which no row says that it changed anything."""
    names = dict.fromkeys(row["condition"] for row in rows if row["condition"] != UNTOUCHED)
    return [name for name in names if not any(row["changed"] for row in rows if row["condition"] == name)]


def conditions(experiment: Experiment, position: int, seed: int) -> Iterator[Condition]:
    """The untouched model, then each strength of the intervention and of its controls."""
    yield Condition(name=UNTOUCHED, options={})
    for strength in experiment.strengths:
        if experiment.name == "isolate_position":
            options = {"position": position, "layers": experiment.layers and list(experiment.layers)}
            yield Condition(name=experiment.name, kind=experiment.name, options=options, strength=strength)
        elif experiment.name == "amplify_variance":
            yield from _amplified(experiment, position, strength, seed)
        else:
            yield from _changed_neurons(experiment, strength, seed)


def _amplified(experiment: Experiment, position: int, strength: float, seed: int) -> Iterator[Condition]:
    """The amplification, as large a norm in the same direction, and as long a change in a random one."""
    assert experiment.layers is not None
    shared = {"position": position, "layer": experiment.layers[0]}
    yield _at_strength("amplify_variance", shared, strength)
    if experiment.controls:
        yield _at_strength("scale_norm", shared, strength)
        yield _at_strength("random_direction", shared | {"seed": seed}, strength - 1)


def _at_strength(kind: str, options: dict[str, Any], strength: float) -> Condition:
    return Condition(name=kind, kind=kind, options=options | {"strength": strength}, strength=strength)


def _changed_neurons(experiment: Experiment, strength: float, seed: int) -> Iterator[Condition]:
    """The super neurons, and as many random ones."""
    layers = experiment.layers and list(experiment.layers)
    for choose, name in (("flagged", experiment.name), ("random", NEURONS[experiment.name])):
        if choose == "flagged" or experiment.controls:
            options = {"layers": layers, "strength": strength, "seed": seed, "at": experiment.at, "choose": choose}
            yield Condition(name=name, kind=experiment.name, options=options, strength=strength)


def _about(subject: Subject, experiment: Experiment) -> dict[str, Any]:
    """What the record was measured on, and which neurons were chosen."""
    layers = chosen_layers(subject.model, experiment.layers)
    about = {
        "intervention": experiment.name,
        "step": subject.step,
        **subject.about,
        "sequences": experiment.sequences,
        "seeds": list(range(experiment.seeds)),
        "position": experiment.positions[0],
        "positions": list(experiment.positions),
        "layers": None if experiment.layers is None else layers,
    }
    if experiment.name in NEURONS:
        about["at"] = experiment.at
        flagged = chosen_neurons(subject.model, NeuronOptions(layers=layers))
        if not flagged:
            where = ", ".join(map(str, layers))
            raise ConfigError(
                f"{experiment.name}: {subject.run.name} has no super neuron (gate and up norm above the median by "
                f"{DEVIATIONS:g} median absolute deviations) in layers {where}; there is nothing to change"
            )
        about["neurons"] = {str(layer): chosen for layer, chosen in flagged.items()}
    return about
