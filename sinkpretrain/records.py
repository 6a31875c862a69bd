"""What records of probes, interventions and evaluations share, for their writers and readers; no torch."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.config import PLACEMENT, Config
from sinkpretrain.errors import DataError
from sinkpretrain.mappings import difference, to_mapping
from sinkpretrain.shapes import Shape, count, head, misfit, nothing, number, plain, text, yes_or_no

ABOUT = "about"  # in a probe record: the text it was measured on, as JSON
UNTOUCHED = "none"  # the condition of an intervention's record in which nothing was changed
VANILLA = "vanilla"  # the condition of an evaluation's record without ACT
BOUNDED = ("acc", "acc_norm", "em", "f1")  # metrics of an evaluation's items between 0 and 1
HELD_OUT = "held-out"  # that text, where it is the run's own

Rows = list[dict[str, Any]]


SHAPES: dict[str, Shape] = {  # of the records, by where they lie
    "experiment.json": {
        "name": plain,
        "question?": text,
        "baseline": text,
        "source": text,
        "slurm?": {},
        "runs": [{"folder": plain, "variant": text, "seed": count, "learning_rate?": number}],
    },
    "status.json": {
        "state?": text,
        "step?": count,
        "parameters?": count,
        "flops_per_token?": (number, nothing),
        "peak_flops?": (number, nothing),
        "seconds?": number,
    },
    "source.json": {
        "source": text,
        "bos_id": (count, nothing),
        "eos_id?": (count, nothing),
        "separator_id?": (count, nothing),
        "begins_with_bos?": yes_or_no,
        "chat_template?": (text, nothing),
    },
    "interventions/*.json": {
        "about": {
            "step?": count,
            "position": count,
            "tokens": count,
            "layers?": ([count], nothing),
            "sequences?": count,
            "seeds?": [count],
            "text?": text,
            "bos?": text,
            "positions?": [count],
            "at?": text,
        },
        "rows": [
            {
                "condition": text,
                "strength": (number, nothing),
                "position": count,
                "seed": count,
                text: (number, text, yes_or_no, nothing, [(number, nothing)]),
            }
        ],
    },
    "act/heads.json": {
        "model": {"run": text, "step": count, "sha256": text},
        "settings": {},
        "tasks": {text: {"items": count, "hashes": [text]}},
        "items": count,
        "layers": [count],
        "vanilla": {text: number},
        "heads": [{"layer": count, "head": count, text: number}],
        "saw_sink": count,
        "rules": {"paper": [head], "corrected": [head]},
    },
    "eval/*.json": {
        "about": {
            "model": {"run": text, "step": count, "sha256": text},
            "tasks": [text],
            "fewshot": count,
            "limit?": (count, nothing),
        },
        "conditions": {
            text: {
                "act": ({"heads": [head], "settings": {}, "saw_sink": [head], "rule?": (text, nothing)}, nothing),
                "tasks": {text: {"items": {text: [(number, text, nothing)]}, "chance": (number, nothing)}},
            }
        },
    },
}
HEADS = "act/heads.json"


def read_record(path: Path, command: str, like: str | None = None) -> dict[str, Any]:
    """A JSON record; `command` is what makes it, `like` the place in `SHAPES` whose shape it has, if not its own.

    Raises:
        DataError: no such file, one that is not a JSON object, or an object of another shape.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such record; make it with {command}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise DataError(f"{path}: is not JSON ({error}); the record was altered") from None
    shape: Shape = next((SHAPES[place] for place in SHAPES if place == like or path.match(place)), {})
    if (found := misfit(record, shape)) is not None:
        raise DataError(f"{path}: {found}; the record was altered, make it again with {command}")
    mapping: dict[str, Any] = record
    return mapping


def read_arrays(path: Path, command: str, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz record by name, all or those of these `names` that it has; `command` is what makes it.

    Raises:
        DataError: no such file, or one that holds something else than arrays of numbers and texts.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such record; make it with {command}")
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files if names is None or name in names}
    except Exception as error:  # numpy, zipfile and zlib have no common class; objects, which are code, are refused too
        raise DataError(f"{path}: does not hold arrays ({error}); make it again with {command}") from error


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
