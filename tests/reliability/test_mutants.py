"""The mutation check's list keeps up with the code."""

import ast
from pathlib import Path

import pytest
from mutation.__main__ import ROOT, mutated
from mutation.mutants import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_each_mutant_changes_one_place_and_still_parses(mutant):
    text = mutated(mutant, (ROOT / mutant.file).read_text(encoding="utf-8"))
    ast.parse(text)
    assert all((ROOT / Path(asked)).exists() for asked in mutant.ask.split())


def test_a_mutant_that_the_code_has_outgrown_is_named():
    with pytest.raises(ValueError, match="has 0 times what"):
        mutated(MUTANTS[0], "")
