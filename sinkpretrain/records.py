"""What records of probes and interventions share, for those who write and those who read them; no torch."""

from collections.abc import Mapping
from typing import Any

from sinkpretrain.config import Config

ABOUT = "about"  # in a probe record: the text it was measured on, as JSON
UNTOUCHED = "none"  # the condition of an intervention's record in which nothing was changed
HELD_OUT = "held-out"  # that text, where it is the run's own

Rows = list[dict[str, Any]]


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
