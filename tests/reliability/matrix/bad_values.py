"""Values that no key can mean: of another type for every field there is, and out of range for every one with a range.

The fields are read from the dataclasses, so a new one gets its wrong types by itself, and `without_range` names it
until the tables here say what is out of its range.
"""

import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Literal

from sinkpretrain import registry
from sinkpretrain.config import Config

NAMES = ("", ".", "..", "a/b", "a\0b", 300 * "x")  # no names of folders
RANGED = (int, float, str, list, dict)  # what a type alone does not bound

# Out of range in a run of 2 layers of width 32, 2 heads, 32 tokens of context, 8 windows a step.
CONFIG: dict[str, Sequence[Any]] = {
    "name": NAMES,
    "variant": NAMES,
    "seed": (-1, 2**32),
    "tokens": (0, -5, 8 * 32 - 1, 10**400),
    "global_batch_size": (0, -8),
    "micro_batch_size": (0, -1),
    "devices": (0, -1),
    "nodes": (0, -1),
    "timeout": (0.0, -1.0),
    "log_every": (0, -1),
    "model.vocab_size": (1, 0, -1),
    "model.n_layers": (0, -1),
    "model.n_heads": (0, 3, 32),
    "model.n_kv_heads": (0, 3, 4, -1),
    "model.d_model": (0, 30, 2),
    "model.d_ff": (0, -1),
    "model.context_length": (1, 0, -1),
    "model.rope_theta": (0.0, -1.0),
    "model.rope_scaling": (),  # in ROPE_SCALINGS
    "model.norm_eps": (0.0, -1e-5),
    "model.dropout": (-0.1, 1.0, 1.5),
    "model.attention.weights": (),  # in ATTENTION
    "model.attention.output": (),
    "data.seed": (-1, 2**32),
    "data.workers": (-1,),
    "optimizer.learning_rate": (0.0, -1e-3),
    "optimizer.beta1": (-0.1, 1.0),
    "optimizer.beta2": (-0.1, 1.0),
    "optimizer.eps": (0.0, -1e-8),
    "optimizer.weight_decay": (-0.1,),
    "optimizer.clip": (0.0, -1.0),
    "schedule.warmup_steps": (-1,),
    "schedule.final_fraction": (-0.1, 1.1),
    "schedule.decay_fraction": (-0.1, 1.1),
    "guard.spike_deviations": (0.0, -1.0),
    "guard.spike_nats": (0.0, -1.0),
    "guard.patience": (0, -1),
    "validation.every": (0, -1),
    "validation.windows": (0, -1),
    "probes.every": (0, -1),
    "probes.windows": (0, -1),
    "probes.metrics": (["sink_rat"], [""]),
    "checkpoints.every": (0, -1),
    "checkpoints.keep": (1, 0, -1),
}
ANY_TEXT = {
    "data.store": "whether there is a store is the data's own question, exit code 3",
    "wandb.project": "Weights & Biases says what it takes",
}
# The message on a head size that cannot be is of two keys together.
AT_ANOTHER_KEY = {"model.n_heads": r"model\.(n_heads|d_model)"}
LLAMA3 = {
    "name": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_context_length": 8,
}
NO_NUMBERS: tuple[Any, ...] = (0, -1.0, True, math.inf, math.nan, "2", None, [2.0], {"a": 1})
ROPE_SCALINGS: list[tuple[dict[str, Any], str]] = [
    ({}, r"rope_scaling\.name: None is not one of linear, llama3"),
    ({"name": "yarn", "factor": 2.0}, r"rope_scaling\.name: 'yarn' is not one of linear, llama3"),
    ({"name": ["linear"], "factor": 2.0}, r"rope_scaling\.name: \['linear'\] is not one of linear, llama3"),
    ({"name": "linear"}, "rope_scaling: 'linear' needs factor; given: none of them"),
    ({"name": "linear", "factor": 2.0, "beta": 1}, "rope_scaling: 'linear' needs factor; given: beta, factor"),
    ({"name": "linear", "factor": 2.0, 3: 1}, "rope_scaling: 'linear' needs factor; given: "),
    *[
        ({"name": "linear", "factor": value}, r"rope_scaling\.factor: .* is out of range; allowed: ")
        for value in NO_NUMBERS
    ],
    *[
        ({**LLAMA3, key: value}, rf"rope_scaling\.{key}: .* is out of range; allowed: ")
        for key in LLAMA3
        if key != "name"
        for value in NO_NUMBERS
    ],
    ({**LLAMA3, "high_freq_factor": 1.0}, r"rope_scaling\.high_freq_factor: 1.0 is out of range; allowed: > low_freq"),
    ({key: value for key, value in LLAMA3.items() if key != "factor"}, "rope_scaling: 'llama3' needs factor, low_freq"),
]
OPTIONS: dict[str, Sequence[Any]] = {}  # out of range, by `attention.weights.KIND.OPTION`; none of them has a range yet


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What a sound file is changed to, and what is said of it."""

    what: str
    content: dict[str, Any]
    says: str  # a pattern


def leaves(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every field that is not a dataclass itself."""
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        if is_dataclass(hints[field.name]):
            yield from leaves(typing.cast("type[Any]", hints[field.name]), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hints[field.name]


def nested(key: str, value: Any) -> Any:
    """The mapping in which a dotted key has a value."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def of_another_type(hint: Any) -> list[Any]:
    """Values of another type, as YAML can hold them."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return [value for value in of_another_type(arguments[0]) if value is not None]
    by_type: dict[Any, list[Any]] = {
        int: ["many", 1.5, True, [1], {"a": 1}, None, math.inf, math.nan, "1e-3", ""],
        float: ["fast", True, [1.0], {"a": 1.0}, None, math.nan, -math.inf, "nan", ""],
        bool: ["yes", 1, 0, None, [True]],
        str: [3, True, None, ["a"], {"a": "b"}],
        list: ["text", 3, None, {"a": 1}],
        dict: ["text", 3, None, [1]],
        Literal: ["nonsense", 3, True, None, ["none"], {"a": 1}],
    }
    return by_type[typing.get_origin(hint) or hint]


def without_range(cls: type[Any], ranges: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Fields that numbers, texts, lists or mappings go into, of which the table does not say what is out of range."""
    return [key for key, hint in leaves(cls, prefix) if _bare(hint) in RANGED and key not in ranges]


def of_a_config() -> Iterator[Bad]:
    """Every field of a run's configuration, the numbers of RoPE's scaling, the options of every kind of attention."""
    yield from of_fields(Config, CONFIG)
    for scaling, says in ROPE_SCALINGS:
        yield Bad(what=f"model.rope_scaling: {scaling}", content={"model": {"rope_scaling": scaling}}, says=says)
    for kind in ("weights", "output"):
        for name in registry.names(f"attention.{kind}"):
            yield from _of_options(kind, name)
        for name in ("nonsense", None, 3, ["softmax"]):
            says = rf"model\.attention\.{kind}: name .* is not one of "
            yield Bad(what=f"attention.{kind}: name {name!r}", content=_attention(kind, {"name": name}), says=says)
    for entry in ("gate", 3, None):
        says = r"model\.attention\.output\[0\]: .* is not a mapping"
        yield Bad(what=f"output: {entry!r}", content=nested("model.attention.output", [entry]), says=says)


def of_fields(cls: type[Any], ranges: Mapping[str, Sequence[Any]], prefix: str = "") -> Iterator[Bad]:
    """Every field of a dataclass whose mapping stands under a prefix."""
    for key, hint in leaves(cls, prefix):
        for value in of_another_type(hint):
            yield Bad(what=f"{key}={value!r}", content=nested(key, value), says=wrong_type(key, value))
        for value in ranges.get(key, ()):
            yield Bad(what=f"{key}={shown(value)}", content=nested(key, value), says=out_of_range(key))


def wrong_type(key: str, value: Any) -> str:
    """What is said of a value of another type: the key, the value and the allowed ones."""
    kinds = "one of|a whole number|a finite number|true or false|text|a list|a mapping of keys to values"
    return rf"{escaped(key)}: {escaped(repr(value))} is not ({kinds})"


def out_of_range(key: str) -> str:
    """What is said of a value out of range."""
    return rf"{AT_ANOTHER_KEY.get(key, escaped(key))}: .+ is out of range; allowed: \S"


def escaped(text: str) -> str:
    """A pattern of exactly this text."""
    return re.escape(text)


def shown(value: Any) -> str:
    """A value, at a length to read."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:30]}... of {len(text)} characters"


def _of_options(kind: str, name: str) -> Iterator[Bad]:
    """The options of one kind of attention, and one that it does not have."""
    where = f"model.attention.{kind}" + ("[0]" if kind == "output" else "")
    options = getattr(registry.load(f"attention.{kind}", name), "Options", None)
    for field, hint in leaves(options) if options else ():
        for value in of_another_type(hint):
            says = wrong_type(f"{where}.{field}", value)
            yield Bad(
                what=f"{name}.{field}={value!r}", content=_attention(kind, {"name": name, field: value}), says=says
            )
        for value in OPTIONS.get(f"attention.{kind}.{name}.{field}", ()):
            content = _attention(kind, {"name": name, field: value})
            yield Bad(what=f"{name}.{field}={value!r}", content=content, says=out_of_range(f"{where}.{field}"))
    unknown = _attention(kind, {"name": name, "strength": 1})
    yield Bad(
        what=f"{name}.strength", content=unknown, says=rf"{escaped(where)}\.strength: '{name}' has no such option; "
    )


def _attention(kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    return dict(nested(f"model.attention.{kind}", [entry] if kind == "output" else entry))


def _bare(hint: Any) -> Any:
    """The type itself: of an optional one what it is when given, of a list or mapping no more than that."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        hint = typing.get_args(hint)[0]
    return typing.get_origin(hint) or hint
