"""Run folders with made-up records of the shape that training writes: softmax grows a sink, the other two do not.

Letters: L layers, H heads, T positions.
"""

from pathlib import Path

import numpy as np

from sinkpretrain.config import Config, ModelConfig, OptimizerConfig
from sinkpretrain.runs import Run, write_json

LAYERS, HEADS, POSITIONS, STEPS = 6, 4, 128, 1000
PROBED = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, STEPS)
ATTENTION = {
    "softmax": {},
    "sigmoid": {"weights": {"name": "sigmoid"}},
    "head_rmsnorm": {"output": [{"name": "head_rmsnorm"}]},
}
UNIFORM = (np.sum(1 / np.arange(1, POSITIONS + 1)) - 1) / (POSITIONS - 1)
UNIGRAM_ENTROPY = 6.25


def config(variant: str, seed: int) -> Config:
    """A small run of 1000 steps of 2048 tokens."""
    model = ModelConfig(n_layers=LAYERS, context_length=POSITIONS, attention=ATTENTION.get(variant, {}))
    optimizer = OptimizerConfig(learning_rate=2e-3 if variant == "head_rmsnorm" else 1e-3)
    budget = {"tokens": 2048 * STEPS, "global_batch_size": 16, "micro_batch_size": 16}
    return Config(name="demo", variant=variant, seed=seed, model=model, optimizer=optimizer, **budget)


def probe(variant: str, seed: int, step: int) -> dict[str, np.ndarray]:
    """All arrays of one probe record."""
    rng = np.random.default_rng([seed, step, len(variant)])
    noise_LH = rng.uniform(0.95, 1.05, (LAYERS, HEADS))
    noise_L = noise_LH.mean(axis=1)
    layer = np.arange(LAYERS)
    grown = step / (step + 150)  # 0 untrained, near 1 at the end
    sink_L = grown * (variant == "softmax") * np.clip(layer - 1, 0, 3) / 3
    raw_LH = (UNIFORM * (1 + 0.1 * grown) + 0.6 * sink_L)[:, None] * noise_LH
    mass = 0.3 if variant == "sigmoid" else 1.0
    rate_LH = np.clip(raw_LH - 0.2, 0, None) * 1.8
    decay_T = 1 / np.arange(1, POSITIONS + 1)
    falling_LT = np.outer(0.02 * (1 + grown) * noise_L, decay_T ** (1 - 0.2 * grown))
    flat_LT = np.outer(0.01 * noise_L, decay_T**0.1)
    mixed_LT = flat_LT if variant == "sigmoid" else falling_LT
    out_LT = 0.3 * (falling_LT if variant == "softmax" else flat_LT)
    late = slice(POSITIONS // 2, None)
    return {
        "first_token_attention/raw": raw_LH * mass,
        "first_token_attention/normalised": raw_LH,
        "first_token_attention/uniform": np.array(UNIFORM),
        "sink_rate/first": rate_LH * (variant == "softmax"),
        "sink_rate/first_normalised": rate_LH * (variant == "softmax") + 0.02 * (variant == "sigmoid"),
        "sink_rate/others_max": 0.01 * noise_LH,
        "effective_rank/all": (110 - 60 * sink_L - 3 * layer) * noise_L,
        "effective_rank/centred": (112 - 3 * layer) * noise_L,
        "effective_rank/without_first": (111 - 3 * layer) * noise_L,
        "dominance_ratio/first": (4 + 60 * sink_L) * noise_L,
        "dominance_ratio/others": 4 * noise_L,
        "massive_activation/ratio": (8 + 300 * sink_L) * noise_L,
        "representation_norm/first": (5 + layer + 300 * sink_L) * noise_L,
        "representation_norm/others": (5 + layer) * noise_L,
        "positional_variance/mixed": mixed_LT,
        "positional_variance/attn_out": out_LT,
        "positional_variance/discrepancy": mixed_LT[:, 0] / mixed_LT[:, late].mean(axis=1),
        "positional_variance/discrepancy_attn_out": out_LT[:, 0] / out_LT[:, late].mean(axis=1),
    }


def metric_rows(variant: str, seed: int, until: int) -> list[dict[str, float]]:
    """Lines of metrics.jsonl up to a step: training loss every 10 steps, validation every 100, sinks where probed."""
    rng = np.random.default_rng([seed, len(variant)])
    slower = {"softmax": 1.0, "sigmoid": 1.15}.get(variant, 0.95)
    rows = []
    for step in sorted({*range(0, until + 1, 10), *(at for at in PROBED if at <= until)}):
        loss = 3.1 + 6.1 * slower / (1 + step / 12) ** 0.6 + 0.02 * seed
        row: dict[str, float] = {"step": step, "tokens": 2048 * step, "seconds": round(0.5 + 0.08 * step * slower, 3)}
        if step and step % 10 == 0:
            row |= {"train/loss": loss + rng.normal(0, 0.05), "perf/tokens_per_s": 25_000 / slower}
        if step % 100 == 0:
            row |= {
                "val/loss": loss,
                "val/perplexity": float(np.exp(loss)),
                "val/bits_per_byte": loss / np.log(2) / 3.6,
            }
        if step in PROBED:
            record = probe(variant, seed, step)
            row["sink/first_token_mean"] = float(record["first_token_attention/raw"].mean())
            row["sink/first_token_mean_normalised"] = float(record["first_token_attention/normalised"].mean())
            row["sink/rate"] = float(record["sink_rate/first"].mean())
            row["sink/rate_normalised"] = float(record["sink_rate/first_normalised"].mean())
            row["rank/effective_mean"] = float(record["effective_rank/all"].mean())
            row["activation/dominance_mean"] = float(record["dominance_ratio/first"].mean())
        rows.append(row)
    return rows


def write_run(folder: Path, variant: str, seed: int, *, until: int = STEPS, probes: bool = True) -> Run:
    """One run folder; `until` below STEPS leaves it running."""
    run = Run(folder)
    run.create(config(variant, seed))
    for row in metric_rows(variant, seed, until):
        run.append_metrics(row)
    for step in PROBED if probes else ():
        if step <= until:
            run.write_probe(step, probe(variant, seed, step))
    run.write_status("done" if until == STEPS else "running", step=until, parameters=1_500_000, flops_per_token=9.1e6)
    write_json(folder / "environment.json", {"python": "3.11.2", "packages": {"torch": "2.13.0"}, "device": "cpu"})
    manifest = {"source": "sotu", "splits": {"validation": {"unigram_entropy_nats": UNIGRAM_ENTROPY}}}
    write_json(folder / "data_manifest.json", manifest)
    return run


def write_runs(root: Path, variants: tuple[str, ...] = tuple(ATTENTION), seeds: int = 2) -> list[Run]:
    """An experiment: every variant with its seeds, in the order given."""
    return [write_run(root / "demo" / f"{v}-s{seed}", v, seed) for v in variants for seed in range(seeds)]
