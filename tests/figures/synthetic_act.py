"""Made-up records of ACT: a head search, attention maps and an evaluation.

Letters: L layers, H heads, T query positions, S key positions, I items.
"""

import json

import numpy as np

LAYERS, HEADS, POSITIONS, ITEMS = (2, 4), 4, 48, 120
SINKS = (7, 19)
SETTINGS = {"alpha": 5.0, "beta": 0.4}
TASKS = ("made_up_one", "made_up_two")
WITHOUT_SINKS = (0, 1)  # heads of each layer
CHOSEN = {"paper": [[2, 2], [3, 3], [4, 2]], "corrected": [[3, 3]]}


def identity(variant: str, seed: int) -> dict[str, object]:
    return {"run": f"{variant}-s{seed}", "step": 1000, "sha256": f"{variant}{seed}"}


def search(variant: str, seed: int) -> dict[str, object]:
    """`act/heads.json`."""
    rng = np.random.default_rng([seed, len(variant), 7])
    rows = []
    for layer in range(LAYERS[0], LAYERS[1] + 1):
        for head in range(HEADS):
            seen = head not in WITHOUT_SINKS
            effects = {name: float(seen * rng.normal(0, 0.02)) for name in ("accuracy", "logprob", "margin")}
            share = {"sink_share": 0.4 * seen, "p": 0.3 if seen else 1.0, "q": 0.5 if seen else 1.0}
            rows.append({"layer": layer, "head": head, **share, **effects})
    return {
        "model": identity(variant, seed),
        "settings": SETTINGS,
        "tasks": {},
        "items": 100,
        "layers": list(LAYERS),
        "vanilla": {"accuracy": 0.3, "logprob": -3.2, "margin": -0.4},
        "heads": rows,
        "saw_sink": sum(row["sink_share"] > 0 for row in rows),
        "rules": CHOSEN,
    }


def maps(variant: str, seed: int) -> dict[str, np.ndarray]:
    """`act/maps.npz`."""
    rng = np.random.default_rng([seed, len(variant), 8])
    before_TS = np.tril(rng.uniform(0.5, 1.5, (POSITIONS, POSITIONS)))
    before_TS[:, 0] = 12.0
    for sink in SINKS:
        before_TS[sink:, sink] = 8.0
    before_TS /= before_TS.sum(axis=1, keepdims=True)
    is_sink_S = np.isin(np.arange(POSITIONS), SINKS)
    moved_TS = np.where(is_sink_S, 0.4 * before_TS, before_TS)
    kept_T1, others_T1 = (
        (weights_TS * chosen_S).sum(axis=1, keepdims=True)
        for weights_TS, chosen_S in ((moved_TS, is_sink_S), (moved_TS, ~is_sink_S))
    )
    after_TS = np.where(is_sink_S, moved_TS, moved_TS * (1 - kept_T1) / others_T1)
    return {
        "before": before_TS,
        "after": after_TS,
        "sinks": np.where(is_sink_S, 0.75, 0.02),
        "tokens": np.array([f" word{place}" for place in range(POSITIONS)]),
        "heads": np.array(json.dumps(CHOSEN["paper"])),
    }


def evaluation(variant: str, seed: int) -> dict[str, object]:
    """`eval/made_up.json`."""
    rng = np.random.default_rng([seed, len(variant), 9])
    right = {task: rng.random(ITEMS) < 0.4 for task in TASKS}
    gains = {"vanilla": 0.0, "act-paper": 0.08 if variant == "softmax" else 0.02, "act-corrected": 0.03}
    gains |= {"random-heads": 0.02, "equal-mass": -0.01}
    conditions = {}
    for name, gain in gains.items():
        heads = CHOSEN.get(name.removeprefix("act-"), CHOSEN["paper"])
        act = {"rule": name, "heads": heads, "settings": SETTINGS, "saw_sink": heads}
        tasks = {}
        for task in TASKS:
            turned_I = rng.random(ITEMS) < abs(gain)
            acc_I = np.where(turned_I, gain > 0, right[task]).astype(float)
            columns = {"acc": acc_I, "logprob": acc_I - 3.0}
            tasks[task] = {
                "n": ITEMS,
                "chance": 0.25,
                "metrics": {key: [float(of.mean()), 0.04] for key, of in columns.items()},
                "items": {"hash": [f"{task} {place}" for place in range(ITEMS)]}
                | {key: of.tolist() for key, of in columns.items()},
            }
        conditions[name] = {"act": None if name == "vanilla" else act, "tasks": tasks}
    about = {"model": identity(variant, seed), "tasks": list(TASKS), "fewshot": 0, "limit": ITEMS, "bos": "auto"}
    return {"about": about, "conditions": conditions}
