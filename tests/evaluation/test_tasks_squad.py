"""SQuAD's exact match and F1, against what the official scripts give."""

import pytest

from sinkpretrain.evaluation.squad import scores, target


def doc(*answers):
    return {"answers": {"text": list(answers), "answer_start": [0] * len(answers)}}


@pytest.mark.parametrize(
    ("given", "answers", "em", "f1"),
    [
        (" Denver Broncos", ["Denver Broncos", "The Denver Broncos"], 1.0, 1.0),
        ("the Denver  broncos!", ["Denver Broncos"], 1.0, 1.0),  # case, articles, punctuation and white space
        ("Broncos", ["Denver Broncos"], 0.0, 2 / 3),
        ("Denver Broncos won the game", ["Denver Broncos", "Denver Broncos won"], 0.0, 6 / 7),  # the best answer counts
        ("Broncos Broncos Denver", ["Denver Broncos"], 0.0, 4 / 5),  # words are counted, not only found
        ("Carolina", ["Denver Broncos"], 0.0, 0.0),
        ("twenty-one", ["twenty one"], 0.0, 0.0),  # a hyphen goes without a trace
        ("", ["Denver Broncos"], 0.0, 0.0),
        ("the", ["Denver Broncos"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        (" Not in background.", [], 1.0, 1.0),
        ("not in  background", [], 1.0, 1.0),
        ('"Not in background."', [], 1.0, 1.0),
        ("Not in background.", ["the background"], 0.0, 0.0),  # it is no answer, and shares no word with one
        ("It is not in background.", [], 0.0, 0.0),
        ("Denver", [], 0.0, 0.0),
        ("a", [], 1.0, 1.0),  # nothing is left of it, as in the official script
    ],
)
def test_scores_are_those_of_the_official_scripts(given, answers, em, f1):
    assert scores(doc(*answers), [given]) == {"em": em, "f1": pytest.approx(f1, abs=1e-6)}


def test_the_target_is_the_first_answer_or_none():
    assert target(doc("[1]", "2")) == "[1]"
    assert target(doc()) == "Not in background."
