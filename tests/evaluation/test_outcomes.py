"""Outcomes of items: their definitions, the harness's own accuracy on the same samples, and what is refused."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from lm_eval.api.model import LM
from stock_tasks import answers_of, stock_task, write_items

from sinkpretrain.errors import DataError
from sinkpretrain.evaluation.items import items
from sinkpretrain.evaluation.outcomes import choice_outcome, mean_and_error, outcomes_of

COUNT = 60


class Fixed(LM):
    """Log-probabilities that only the text decides; every third answer counts as greedy."""

    def loglikelihood(self, requests):
        return [self.answer("".join(request.args)) for request in requests]

    def loglikelihood_rolling(self, requests):
        return [self.answer(request.args[0])[0] for request in requests]

    def generate_until(self, requests):
        return [request.args[0].split()[-2] for request in requests]

    def answer(self, text):
        number = int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)
        return -(number % 1000) / 20 - 1, number % 3 == 0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_items(tmp_path_factory.mktemp("items") / "items.jsonl", COUNT)


def test_definitions_of_a_choice():
    found = choice_outcome(np.array([-2.0, -3.0, -2.5]), np.array([1.0, 10.0, 5.0]), [0])
    assert found == {"acc": 1.0, "acc_norm": 0.0, "logprob": -2.0, "margin": 0.5}
    found = choice_outcome(np.array([-2.0, -3.0, -2.5]), np.array([1.0, 10.0, 5.0]), [1])
    assert found == {"acc": 0.0, "acc_norm": 1.0, "logprob": -3.0, "margin": -1.0}
    found = choice_outcome(np.array([-2.0, -3.0, -2.5]), np.ones(3), [1, 2])
    assert (found["logprob"], found["margin"]) == (-2.5, -0.5), "where several are right, the best of them counts"


def test_means_and_their_standard_errors():
    assert mean_and_error([0.0, 1.0, 1.0, 0.0]) == (0.5, pytest.approx(math.sqrt(1 / 3) / 2))
    assert mean_and_error([2.0]) == (2.0, None)


@pytest.mark.parametrize("name", ["arc_easy", "piqa", "sciq"])
def test_accuracy_is_the_one_of_the_harness_on_every_item(name, path):
    metrics = [{"metric": metric, "aggregation": "mean"} for metric in ("acc", "acc_bytes")]
    task = stock_task(name, path, metric_list=metrics)
    samples, results = answers_of(Fixed(), name, task)
    asked = items(task, "test", None)
    found = outcomes_of(task, samples, asked)
    assert found["items"]["acc"] == [sample["acc"] for sample in samples]
    assert found["items"]["acc_norm"] == [sample["acc_bytes"] for sample in samples]
    assert found["metrics"]["acc"][0] == pytest.approx(results["acc,none"])
    assert 0 < found["metrics"]["acc"][0] < 1
    assert (found["n"], found["chance"]) == (COUNT, 0.5 if name == "piqa" else 0.25)
    assert found["items"]["hash"] == [item.hash for item in asked]
    for sample, item, logprob, margin in zip(
        samples, asked, found["items"]["logprob"], found["items"]["margin"], strict=True
    ):
        scores = [response[0][0] for response in sample["resps"]]
        assert logprob == scores[item.gold]
        assert margin == logprob - max(scores[: item.gold] + scores[item.gold + 1 :])
    assert all(len(values) == COUNT for values in found["items"].values())


def test_unconditional_requests_are_no_answers(path):
    """`acc_mutual_info` asks for each answer a second time, without the question."""
    metrics = [{"metric": metric, "aggregation": "mean"} for metric in ("acc", "acc_mutual_info")]
    task = stock_task("arc_easy", path, metric_list=metrics)
    samples, _ = answers_of(Fixed(), "arc_easy", task, limit=20)
    assert len(samples[0]["resps"]) == 8
    assert outcomes_of(task, samples, items(task, "test", 20))["items"]["acc"] == [sample["acc"] for sample in samples]


def other_task(path, output_type, **changes):
    config = {"task": "other", "output_type": output_type, "doc_to_text": "{{question}}", "target_delimiter": " "}
    return stock_task("arc_easy", path, **config, doc_to_choice=None, should_decontaminate=False, **changes)


def test_the_last_word_is_right_where_it_is_greedy(path):
    metrics = [{"metric": "acc", "aggregation": "mean"}]
    task = other_task(path, "loglikelihood", doc_to_target="{{correct_answer}}", metric_list=metrics)
    samples, _ = answers_of(Fixed(), "other", task)
    found = outcomes_of(task, samples, items(task, "test", None))
    assert found["items"]["acc"] == [float(sample["acc"]) for sample in samples]
    assert found["items"]["logprob"] == [sample["resps"][0][0][0] for sample in samples]
    assert set(found["items"]) == {"hash", "acc", "logprob"}
    assert found["chance"] == 0.0


def test_generated_answers_are_judged_by_their_task(path):
    metrics = [{"metric": "exact_match", "aggregation": "mean"}]
    changes = {"doc_to_target": "{{question.split()[-2]}}", "generation_kwargs": {"until": ["\n"]}}
    task = other_task(path, "generate_until", metric_list=metrics, **changes)
    samples, _ = answers_of(Fixed(), "other", task, limit=5)
    found = outcomes_of(task, samples, items(task, "test", 5))
    assert found["items"]["em"] == [1.0] * 5
    samples = [{**sample, "exact_match": ("no", "number"), "metrics": ["exact_match"]} for sample in samples]
    with pytest.raises(DataError, match="measures exact_match, which are not numbers of an item by itself"):
        outcomes_of(task, samples, None)


def test_whole_texts_have_the_hashes_of_the_harness(path):
    metrics = [{"metric": "bits_per_byte"}]
    task = other_task(path, "loglikelihood_rolling", doc_to_target="{{question}}", metric_list=metrics)
    samples, _ = answers_of(Fixed(), "other", task, limit=3)
    found = outcomes_of(task, samples)
    assert found["items"]["hash"] == [sample["doc_hash"] for sample in samples]
    assert found["items"]["logprob"] == [sample["resps"][0][0] for sample in samples]


def test_samples_of_other_items_are_refused(path):
    task = stock_task("arc_easy", path)
    samples, _ = answers_of(Fixed(), "arc_easy", task, limit=3)
    asked = items(task, "test", 3)
    with pytest.raises(DataError, match="item 1 was asked with"):
        outcomes_of(task, samples, [asked[0], replace(asked[1], prompt="Question: another?"), asked[2]])
    with pytest.raises(DataError, match="item 2 was asked with"):
        outcomes_of(task, samples, [*asked[:2], replace(asked[2], answers=[" a", " b", " c", " d"])])
