"""Tasks end to end through lm-evaluation-harness: who knows the answers scores 1, who guesses scores chance."""

import math
import random

import pytest
from invented_items import ROWS, right_answer
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from sinkpretrain.evaluation.items import chance, items
from sinkpretrain.evaluation.tasks import OWN, TASK_SETS, load_tasks

DATASETS = [name for name in ROWS if name not in TASK_SETS["squad"]]


class Oracle(LM):
    """Gives the right answer probability 1, and generates it."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def loglikelihood(self, requests):
        right = [request.args[1] == f" {right_answer(self.name, request.doc)}" for request in requests]
        return [(0.0, True) if known else (-9.0, False) for known in right]

    def generate_until(self, requests):
        return [f" {right_answer(self.name, request.doc)}" for request in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


class Guesser(Oracle):
    """Gives every answer a log-probability that has nothing to do with it, and always generates the same."""

    def loglikelihood(self, requests):
        draw = random.Random(self.name)
        return [(draw.gauss(-5.0, 2.0), False) for _ in requests]

    def generate_until(self, requests):
        return [" nobody knows" for _ in requests]


def scored(model, task, limit=None):
    loaded = {"tasks": {task.config.task: task}, "groups": {}}
    results = evaluate(lm=model, task_dict=loaded, limit=limit, bootstrap_iters=0)
    return {name.partition(",")[0]: value for name, value in results["results"][task.config.task].items()}


@pytest.mark.parametrize("name", DATASETS)
def test_choices(name, invented):
    task = load_tasks([name], data_dir=invented)[name]
    known = scored(Oracle(name), task)
    assert (known["acc"], known["acc_bytes"]) == (1.0, 1.0)
    by_chance, asked = chance(task, items(task, "test", None)), len(task.eval_docs)
    tolerance = 4 * math.sqrt(by_chance * (1 - by_chance) / asked)
    assert abs(scored(Guesser(name), task)["acc"] - by_chance) < tolerance < 0.15


@pytest.mark.parametrize("name", TASK_SETS["squad"])
def test_generated_answers(name, invented):
    task = load_tasks([name], data_dir=invented, fewshot=1)[name]
    known, unknown = scored(Oracle(name), task, limit=40), scored(Guesser(name), task, limit=40)
    assert (known["em"], known["f1"]) == (1.0, 1.0)
    assert (unknown["em"], unknown["f1"]) == (0.0, 0.0)
    assert chance(task, items(task, "test", 40)) == 0.0


@pytest.mark.parametrize("name", [name for name in OWN if name in DATASETS])
def test_real_items(name, real_items):
    if not (real_items / name).is_dir():
        pytest.skip(f"there are no real items of {name}")
    task = load_tasks([name], data_dir=real_items, fewshot=1)[name]
    assert scored(Oracle(name), task, limit=60)["acc"] == 1.0
    asked = items(task, "test", 60)
    assert all(len({*item.answers}) > 1 and min(map(len, item.answers)) > 1 for item in asked)
