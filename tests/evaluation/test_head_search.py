"""The head search gives what one evaluation a head would give, and finds finished work again.

Letters of shapes: I items, J heads.
"""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sinkpretrain.calibration import Settings, calibrate
from sinkpretrain.errors import DataError
from sinkpretrain.evaluation import head_search
from sinkpretrain.evaluation.head_search import Outcomes, Search
from sinkpretrain.evaluation.heads import FALSE_SHARE, HeadsFile, choose, effects, read_heads, vanilla_means
from sinkpretrain.evaluation.scoring import Question, question_length, score
from sinkpretrain.files import write_json
from sinkpretrain.model.llama import Llama, ModelConfig

LOOSE = Settings(alpha=3.0)


@pytest.fixture(scope="module")
def model():
    """Five layers with attention far from uniform."""
    sizes = dict(vocab_size=41, n_layers=5, n_heads=4, n_kv_heads=2, d_model=32, d_ff=24, context_length=64)
    built = Llama(ModelConfig(**sizes), seed=5).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return built


@pytest.fixture(scope="module")
def asked():
    """Questions of different lengths, with one to four answers, and the right ones."""
    generator = torch.Generator().manual_seed(4)

    def tokens(count):
        return torch.randint(41, (count,), generator=generator).tolist()

    counts = [4, 3, 2, 4, 1, 4, 3]
    questions = [
        Question(prompt=tokens(8 + 5 * number), answers=[tokens(1 + index % 3) for index in range(answers)])
        for number, answers in enumerate(counts)
    ]
    return questions, [number % answers for number, answers in enumerate(counts)]


@pytest.fixture
def search(model, asked, tmp_path):
    def make(settings=LOOSE, **changes):
        questions, golds = asked
        given = dict(model=model, settings=settings, questions=questions, golds=golds, folder=tmp_path, fingerprint="a")
        return Search(**{**given, **changes})

    return make


def one_by_one(model, asked, settings):
    """Accuracy, log-probability and margin of each item, with each head calibrated alone: [3, J, I]."""
    questions, golds = asked
    found = []
    for head in [(layer, head) for layer in (2, 3) for head in range(4)]:
        with calibrate(model, [head], settings) as act:
            rows = []
            for question, gold in zip(questions, golds, strict=True):
                act.receivers_BT = None if question.receivers is None else torch.tensor([question.receivers])
                logprobs = [of.logprob for of in score(model, [question])[0]]
                others = [logprob for index, logprob in enumerate(logprobs) if index != gold]
                right = int(np.argmax(logprobs) == gold) if others else score(model, [question])[0][0].greedy
                rows.append((right, logprobs[gold], logprobs[gold] - max(others) if others else 0.0))
        found.append(np.array(rows).T)
    return np.stack(found, axis=1)


@pytest.mark.parametrize(
    "settings",
    [LOOSE, Settings(alpha=3.0, to_first=False, beta=0.0), Settings(method="temperature", theta=3.0)],
    ids=["act", "not to first", "temperature"],
)
def test_the_search_equals_one_evaluation_a_head(model, asked, search, settings, monkeypatch):
    monkeypatch.setattr(head_search, "ITEMS_AT_A_TIME", 3)
    found = search(settings, batch_tokens=150).run()
    expected_3JI = one_by_one(model, asked, settings)
    before_3I = np.stack([found.accuracy_I, found.logprob_I, found.margin_I])
    changes_3JI = np.stack([found.accuracy_JI, found.logprob_JI, found.margin_JI])
    assert_allclose(before_3I[:, None] + changes_3JI, expected_3JI, atol=5e-5)
    assert np.abs(found.logprob_JI).max() > 0.01, "the case shows nothing"
    if settings.needs_sinks:
        assert 0 < found.saw_JI.sum() < found.saw_JI.size
        assert (found.logprob_JI[~found.saw_JI] == 0).all()
        assert (found.logprob_JI[found.saw_JI] != 0).all()


def test_heads_without_sinks_cost_nothing(model, search, monkeypatch):
    passes = []
    whole = Llama.through_blocks
    monkeypatch.setattr(Llama, "through_blocks", lambda *args, **more: passes.append(more) or whole(*args, **more))
    found = search(Settings(detection="absolute", threshold=0.999)).run()
    assert not found.saw_JI.any()
    assert len(passes) == 1, "one pass over the items, none for heads"
    assert not found.logprob_JI.any()


def test_an_interrupted_search_goes_on(search, monkeypatch):
    monkeypatch.setattr(head_search, "ITEMS_AT_A_TIME", 2)
    whole = search().run()
    for path in search().folder.iterdir():
        path.unlink()
    done = []

    def interrupt(items):
        done.append(items)
        if items == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(progress=interrupt).run()
    kept = {path: path.stat().st_mtime_ns for path in search().folder.iterdir()}
    assert len(kept) == 2
    again = search().run()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "finished batches were computed again"
    for name in ("saw_JI", "logprob_I", "logprob_JI", "accuracy_JI", "margin_JI"):
        assert (getattr(again, name) == getattr(whole, name)).all()
    search(fingerprint="another model").run()
    search(Settings(alpha=3.0, beta=0.1)).run()
    assert len(list(search().folder.iterdir())) == 3 * 4, "another model or setting is another search"


def test_batches_are_cut_by_items_and_by_tokens(search, asked, monkeypatch):
    questions, _ = asked
    monkeypatch.setattr(head_search, "ITEMS_AT_A_TIME", 3)
    monkeypatch.setattr(head_search, "TOKENS_AT_A_TIME", 60)
    cuts = list(search()._batches())
    assert [place for cut in cuts for place in range(cut.start, cut.stop)] == list(range(len(questions)))
    sizes = [(cut.stop - cut.start, sum(question_length(of) for of in questions[cut])) for cut in cuts]
    assert all(items == 1 or (items <= 3 and tokens <= 60) for items, tokens in sizes)
    assert max(items for items, _ in sizes) == 3
    fewer = list(search(questions=questions[:4])._batches())
    assert fewer[:-1] == cuts[: len(fewer) - 1]


def outcomes(logprob_JI, accuracy_JI):
    items = logprob_JI.shape[1]
    return Outcomes(
        heads=[(2, head) for head in range(len(logprob_JI))],
        saw_JI=logprob_JI != 0,
        accuracy_I=np.full(items, 0.5),
        logprob_I=np.full(items, -2.0),
        margin_I=np.zeros(items),
        accuracy_JI=accuracy_JI,
        logprob_JI=logprob_JI,
        margin_JI=logprob_JI,
    )


def test_the_rules_choose_what_they_say():
    rng = np.random.default_rng(0)
    logprob_JI = rng.normal(0, 0.01, (4, 200)) + np.array([[0.02], [0.0], [-0.02], [0.0]])
    logprob_JI[3] = 0
    accuracy_JI = np.zeros((4, 200))
    accuracy_JI[1, 0] = accuracy_JI[2, :3] = 1
    accuracy_JI[0, 5] = -1
    rows = effects(outcomes(logprob_JI, accuracy_JI))
    assert choose(rows) == {"paper": [(2, 1), (2, 2)], "corrected": [(2, 0)]}
    assert rows[0]["q"] < FALSE_SHARE < rows[1]["q"]
    assert (rows[3]["sink_share"], rows[3]["p"], rows[3]["q"]) == (0.0, 1.0, 1.0)
    assert vanilla_means(outcomes(logprob_JI, accuracy_JI)) == {"accuracy": 0.5, "logprob": -2.0, "margin": 0.0}


def test_the_record_comes_back(tmp_path):
    rows = effects(outcomes(np.full((2, 5), 0.1), np.zeros((2, 5))))
    written = HeadsFile(
        model={"run": "r", "step": 3, "sha256": "f"},
        settings=Settings(beta=0.3),
        tasks={"sst2": {"items": 5, "fingerprint": "x", "hashes": ["h"]}},
        items=5,
        layers=[2, 3],
        vanilla={"accuracy": 0.5, "logprob": -2.0, "margin": 0.0},
        heads=rows,
        saw_sink=2,
        rules={"paper": [], "corrected": [(2, 0), (2, 1)]},
    )
    write_json(tmp_path / "heads.json", written.to_mapping())
    read = read_heads(tmp_path / "heads.json")
    assert read == written
    assert (read.chosen("corrected"), read.chosen("all"), read.hashes) == ([(2, 0), (2, 1)], [(2, 0), (2, 1)], ["h"])
    content = json.loads((tmp_path / "heads.json").read_text())
    del content["rules"]
    (tmp_path / "heads.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"heads.json.*rules.*sinkpretrain calibrate"):
        read_heads(tmp_path / "heads.json")
    with pytest.raises(DataError, match="no such record; make it with sinkpretrain calibrate"):
        read_heads(tmp_path / "none.json")
