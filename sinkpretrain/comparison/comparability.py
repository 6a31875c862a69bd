"""Whether losses of training runs may be compared: what is refused, and what is only said."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sinkpretrain.comparison.beginnings import refuse_other_weights, remarks_on_beginnings
from sinkpretrain.comparison.outcomes_of_runs import Outcome
from sinkpretrain.config import PLACEMENT
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.mappings import difference, to_mapping
from sinkpretrain.records import changes
from sinkpretrain.runs import Run

FINGERPRINT, TOKENIZER = "token store", "tokenizer"
TOKENS = {"train": "tokens of the first steps", "validation": "tokens of validation"}
SAME_TEXT = (  # other text, other targets, or another order of training
    FINGERPRINT,
    TOKENIZER,
    *TOKENS.values(),
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

    So it is where runs of one seed began with other weights.

    Raises:
        ConfigError: names two runs, and each difference.
        DataError: a run without the manifest of its data.
    """
    begun = [one for one in outcomes if one.config is not None]
    settings = {one.root: _settings(one) for one in begun}
    first: dict[str, Outcome] = {}
    for one in begun:
        base = begun[0]
        known = [key for key in SAME_TEXT if key in settings[base.root] and key in settings[one.root]]
        pair = [{key: settings[of.root][key] for key in known} for of in (base, one)]
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
    refuse_other_weights(begun)


def remarks(outcomes: Sequence[Outcome], baseline: str) -> list[str]:
    """What a reader must know of these runs: a sentence each.

    In what a variant differs from the baseline besides its attention; which runs left out updates; which began with
    weights, code or versions that are others' or not known.
    """
    first: dict[str, dict[str, Any]] = {}
    for one in outcomes:
        if one.config is not None and one.variant not in first:
            first[one.variant] = _settings(one)
    found = []
    for name, settings in first.items():
        unlike = _unlike(first.get(baseline, settings), settings, (*OF_A_RUN, *UNSEEN, *COMPARED))
        if unlike:
            found.append(f"{name} differs from {baseline} in more than attention: {_listed(unlike)}")
    skipped = [f"{one.root.name} {one.skipped}" for one in outcomes if one.skipped]
    if skipped:
        found.append(f"Updates left out, since their loss or gradient was not sound: {', '.join(skipped)}")
    return found + remarks_on_beginnings(outcomes)


def _settings(outcome: Outcome) -> dict[str, Any]:
    """The configuration by dotted key, with the fingerprints of the token store and of its tokenizer."""
    assert outcome.config is not None
    return {**_flat(to_mapping(outcome.config)), **_data(outcome)}


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A mapping of mappings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _data(outcome: Outcome) -> dict[str, str]:
    """What a run noted of its text, its tokenizer and the tokens it read, by short hashes; some noted no tokens."""
    path = Run(outcome.root).data_manifest_path
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = str(manifest.get("tokenizer_sha256", ""))[:12]
        read = {TOKENS[split]: str(of)[:12] for split, of in manifest.get("token_hashes", {}).items()}
        return {FINGERPRINT: str(manifest["fingerprint"])[:12], TOKENIZER: tokenizer, **read}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
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
