"""No field is without a value that is out of its range, and a refusal that is missing is noticed."""

from dataclasses import dataclass, field

import pytest
from matrix import bad_files, bad_values
from matrix.faults import bad_config
from matrix.rows import inject
from matrix.workshop import Workshop

from sinkpretrain import registry
from sinkpretrain.comparison.slurm_options import SlurmOptions
from sinkpretrain.config import Config
from sinkpretrain.data.recipe import SOURCES, TOKENIZERS, Recipe


def test_every_field_of_a_configuration_has_its_range():
    assert bad_values.without_range(Config, bad_values.CONFIG | bad_values.ANY_TEXT) == []
    known = dict(bad_values.leaves(Config))
    assert set(bad_values.CONFIG | bad_values.ANY_TEXT) <= set(known), "a key of the tables is no field any more"


def test_a_new_field_without_a_range_is_named():
    @dataclass(frozen=True, kw_only=True)
    class Section:
        strength: float = 1.0
        flag: bool = False

    @dataclass(frozen=True, kw_only=True)
    class Longer(Config):
        warmth: int | None = None
        section: Section = field(default_factory=Section)

    # Annotations of classes in a function are resolved from here.
    Longer.__annotations__ = {"warmth": int | None, "section": Section}
    found = bad_values.without_range(Longer, bad_values.CONFIG | bad_values.ANY_TEXT)
    assert found == ["warmth", "section.strength"]


@pytest.mark.parametrize("kind", ["attention.weights", "attention.output"])
def test_every_number_among_the_options_of_attention_has_its_range(kind):
    for name in registry.names(kind):
        options = getattr(registry.load(kind, name), "Options", None)
        missing = bad_values.without_range(options, bad_values.OPTIONS, f"{kind}.{name}.") if options else []
        assert missing == []


def test_every_key_of_a_recipe_has_its_range():
    own = bad_files.RECIPE | dict.fromkeys(("sources", "tokenizer"))
    assert bad_values.without_range(Recipe, own) == []
    for name, cls in (SOURCES | TOKENIZERS).items():
        common = {f"{name}.{key}" for key in ("documents", "limit", "license")}
        known = set(bad_files.KIND_RANGES) | set(bad_files.LOOKED_FOR) | common
        assert bad_values.without_range(cls, dict.fromkeys(known), f"{name}.") == []


def test_every_key_for_slurm_has_its_range():
    known = set(bad_files.SLURM) | {f"slurm.{key}" for key in (*bad_files.SLURM_SAYS, "additional_parameters")}
    assert bad_values.without_range(SlurmOptions, dict.fromkeys(known), "slurm.") == []


def test_a_value_that_is_taken_or_refused_without_its_key_is_noticed(tmp_path, monkeypatch):
    taken = bad_values.Bad(what="a seed that is fine", content={"seeds": [3]}, says="seeds: ")
    unnamed = bad_values.Bad(what="another key", content={"seeds": []}, says="seed_list: ")
    refused = bad_values.Bad(what="an empty list", content={"seeds": []}, says=r"seeds: \[\] is not a list")
    monkeypatch.setattr(bad_config, "CASES", [("experiment", bad) for bad in (taken, unnamed, refused)])
    outcome = inject(bad_config.BadConfig(), Workshop(tmp_path), 3)
    assert [trial.held for trial in outcome.trials] == [False, False, True]
    assert outcome.trials[0].happened.startswith("ended with 0")
