"""Whether losses of training runs may be compared: what is refused, and what is only said."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sinkpretrain.comparison.outcomes_of_runs import Outcome
from sinkpretrain.config import PLACEMENT
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.mappings import difference, to_mapping
from sinkpretrain.records import changes
from sinkpretrain.runs import Run

FINGERPRINT = "token store"
SAME_TEXT = (  # other text, other targets, or another order of training
    FINGERPRINT,
    "data.seed",
    "data.bos",
    "data.document_mask",
    "model.context_length",
    "validation.windows",
    "global_batch_size",
)
OF_A_RUN = ("name", "seed", "optimizer.learning_rate", "data.store")  # may differ between the runs of a variant
UNSEEN = (*PLACEMENT, "accelerator", "log_every", "checkpoints")  # where a run is worked on, and what is written down
COMPARED = ("variant", "model.attention")  # what variants are made of; no remark is needed


def refuse_incomparable(outcomes: Sequence[Outcome]) -> None:
    """Raise where losses of the runs that have begun are not of the same text, or a variant is not one configuration.

    Raises:
        ConfigError: names two runs, and each difference.
        DataError: a run without the manifest of its data.
    """
    begun = [one for one in outcomes if one.config is not None]
    settings = {one.root: _settings(one) for one in begun}
    first: dict[str, Outcome] = {}
    for one in begun:
        base = begun[0]
        pair = [{key: settings[of.root][key] for key in SAME_TEXT} for of in (base, one)]
        if listed := changes(*pair):
            raise ConfigError(
                f"{base.root} and {one.root} cannot be compared: {listed}; their losses are of other text, other "
                "targets or another order of training. Compare runs that share these settings"
            )
        own = first.setdefault(one.variant, one)
        if unlike := _unlike(settings[own.root], settings[one.root], (*OF_A_RUN, *UNSEEN)):
            raise ConfigError(
                f"{own.root} and {one.root} are both '{one.variant}', but differ in more than seed and learning rate: "
                f"{_listed(unlike)}; give them names of their own (variant), or compare one of them"
            )


def remarks(outcomes: Sequence[Outcome], baseline: str) -> list[str]:
    """In what a variant differs from the baseline besides its attention: a sentence a variant."""
    first: dict[str, dict[str, Any]] = {}
    for one in outcomes:
        if one.config is not None and one.variant not in first:
            first[one.variant] = _settings(one)
    found = []
    for name, settings in first.items():
        unlike = _unlike(first.get(baseline, settings), settings, (*OF_A_RUN, *UNSEEN, *COMPARED))
        if unlike:
            found.append(f"{name} differs from {baseline} in more than attention: {_listed(unlike)}")
    return found


def _settings(outcome: Outcome) -> dict[str, Any]:
    """The configuration by dotted key, with the fingerprint of the token store."""
    assert outcome.config is not None
    return {**_flat(to_mapping(outcome.config)), FINGERPRINT: _fingerprint(outcome)}


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A mapping of mappings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _fingerprint(outcome: Outcome) -> str:
    path = Run(outcome.root).data_manifest_path
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])[:12]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{path}: cannot be read, or has no fingerprint; without it nobody can tell whether two runs were trained "
            "and validated on the same text. Leave the run out"
        ) from None


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any], ignored: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two runs differ, but those that are ignored, with all that lies below them."""
    below = tuple(f"{key}." for key in ignored)
    found = difference(one, other)
    return {key: pair for key, pair in found.items() if key not in ignored and not key.startswith(below)}


def _listed(unlike: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} {other!r} instead of {one!r}" for key, (one, other) in unlike.items())
