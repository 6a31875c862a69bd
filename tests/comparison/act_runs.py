"""Runs with made-up records of ACT: what it and its controls do to answers is chosen by the test.

Letters: I items.
"""

import hashlib

import numpy as np

from sinkpretrain.config import Config, ModelConfig
from sinkpretrain.files import write_json
from sinkpretrain.runs import Run

LAYERS, HEADS = 6, 4
ELIGIBLE = [(layer, head) for layer in range(2, LAYERS - 1) for head in range(HEADS)]
SETTINGS = {"alpha": 5.0, "beta": 0.4, "columns": "sinks"}
TASKS = ("first_task", "second_task")


def write_act_run(
    folder,
    variant="softmax",
    seed=0,
    *,
    effect=0.0,
    rules=("act-paper", "act-corrected"),
    saw_sink=8,
    chosen=4,
    met_sink=True,
    items=300,
    tasks=TASKS,
    task_set="made_up",
    random_effect=0.0,
    flips=0.01,
):
    """A run whose answers ACT turns right in a share `effect` of items, or wrong where it is negative."""
    run = Run(folder)
    if not run.config_path.exists():
        model = ModelConfig(n_layers=LAYERS, n_heads=HEADS)
        run.create(Config(variant=variant, seed=seed, model=model))
    rng = np.random.default_rng([seed, len(variant), items])
    identity = {"run": str(folder), "step": 10, "sha256": hashlib.sha256(f"{variant} {seed}".encode()).hexdigest()}
    heads = [list(head) for head in ELIGIBLE[:chosen]]
    about = {"model": identity, "tasks": list(tasks), "fewshot": 0, "limit": items, "data": "hub", "bos": "auto"}
    vanilla = {task: rng.random((2, items)) < 0.4 for task in tasks}
    shifts = {"act-paper": effect, "act-corrected": effect, "random-heads": random_effect, "equal-mass": 0.0}
    conditions = {"vanilla": {"act": None, "tasks": {task: outcome(task, vanilla[task]) for task in tasks}}}
    for name, shift in shifts.items():
        rule = "random" if name == "random-heads" else name.removeprefix("act-")
        used = heads if name in rules or name not in ("act-paper", "act-corrected") else []
        act = {
            "rule": rule,
            "heads": used,
            "settings": SETTINGS | {"columns": "random" if name == "equal-mass" else "sinks"},
            "saw_sink": used if met_sink else [],
        }
        moved = {task: flipped(rng, vanilla[task], shift if used and met_sink else None, flips) for task in tasks}
        conditions[name] = {"act": act, "tasks": {task: outcome(task, moved[task]) for task in tasks}}
    write_json(run.evaluation_path(task_set), {"about": about, "conditions": conditions})
    rows = [
        {
            "layer": layer,
            "head": head,
            "sink_share": 0.5,
            "accuracy": 0.01 * rng.normal(),
            "logprob": 0.02 * rng.normal(),
        }
        | {"margin": 0.0, "p": 0.5, "q": 0.9}
        for layer, head in ELIGIBLE[:saw_sink]
    ]
    search = {"model": identity, "settings": SETTINGS, "tasks": {}, "items": 100, "layers": [2, LAYERS - 2]}
    search |= {"vanilla": {"accuracy": 0.4, "logprob": -3.0}, "heads": rows, "saw_sink": saw_sink}
    search |= {
        "rules": {name.removeprefix("act-"): heads if name in rules else [] for name in ("act-paper", "act-corrected")}
    }
    write_json(run.heads_path, search)
    return run


def flipped(rng, right_2I, shift, flips):
    """Answers after a change: a share `flips` flips either way, and a share `shift` turns right, or wrong."""
    if shift is None:
        return right_2I
    flips_2I = rng.random(right_2I.shape) < flips
    turned_2I = rng.random(right_2I.shape) < abs(shift) / (0.6 if shift > 0 else 0.4)
    return np.where(turned_2I, shift > 0, right_2I ^ flips_2I)


def outcome(task, right_2I):
    """A task's part of a record: accuracy from the first row, normalised accuracy from the second."""
    acc_I, norm_I = right_2I.astype(float)
    logprob_I = -3.0 + acc_I + 0.001 * np.arange(len(acc_I)) / len(acc_I)
    columns = {"acc": acc_I, "acc_norm": norm_I, "logprob": logprob_I, "margin": logprob_I + 2.5}
    hashes = [f"{task}-{place}" for place in range(len(acc_I))]
    metrics = {name: [float(of.mean()), 0.0] for name, of in columns.items()}
    values = {name: of.tolist() for name, of in columns.items()}
    return {"n": len(acc_I), "chance": 0.25, "metrics": metrics, "items": {"hash": hashes, **values}}
