"""What records of probes, interventions and evaluations share, for their writers and readers; no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkpretrain.config import PLACEMENT, Config
from sinkpretrain.errors import DataError
from sinkpretrain.mappings import difference, to_mapping

ABOUT = "about"  # in a probe record: the text it was measured on, as JSON
UNTOUCHED = "none"  # the condition of an intervention's record in which nothing was changed
VANILLA = "vanilla"  # the condition of an evaluation's record without ACT
BOUNDED = ("acc", "acc_norm", "em", "f1")  # metrics of an evaluation's items between 0 and 1
HELD_OUT = "held-out"  # that text, where it is the run's own

Rows = list[dict[str, Any]]


def read_record(path: Path, command: str) -> dict[str, Any]:
    """A JSON record; `command` is what makes it.

    Raises:
        DataError: no such file, or one that is not a JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such record; make it with {command}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON ({error}); the record was altered") from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: holds a {type(record).__name__}, not a record; make it again with {command}")
    return record


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`seed was 0, is 5; optimizer.learning_rate was 0.001, is 0.003`; empty where nothing differs."""
    return "; ".join(f"{key} was {was!r}, is {now!r}" for key, (was, now) in difference(old, new).items())


def identity(config: Config) -> dict[str, Any]:
    """What makes a run this run: its configuration without where it is worked on (`config.PLACEMENT`)."""
    mapping = to_mapping(config)
    for key in PLACEMENT:
        *sections, last = key.split(".")
        section = mapping
        for name in sections:
            section = section[name]
        del section[last]
    return mapping


def about_held_out(config: Config) -> dict[str, Any]:
    """What text the probes of a training run are measured on."""
    data, tokens = config.data, config.model.context_length
    return {"text": HELD_OUT, "tokens": tokens, "bos": data.bos, "document_mask": data.document_mask}


def by_condition(record: Mapping[str, Any]) -> dict[tuple[str, float | None, int], Rows]:
    """The rows of an intervention's record by condition, strength and position: one for each sample of text."""
    grouped: dict[tuple[str, float | None, int], Rows] = {}
    for row in record["rows"]:
        grouped.setdefault((row["condition"], row["strength"], row["position"]), []).append(row)
    return grouped


def place(about: Mapping[str, Any]) -> str:
    """Where an intervention acted, in words that follow its name: layers and tokens, as far as it was not at all."""
    layers = about["layers"] or []
    numbers = ", ".join(map(str, layers))
    in_layers = f" in layer{'s' * (len(layers) > 1)} {numbers}" if layers else ""
    tokens = {"first": " at the first token", "others": " at all tokens but the first"}
    return in_layers + tokens.get(about.get("at", "all"), "")
