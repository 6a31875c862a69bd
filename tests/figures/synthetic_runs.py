"""Run folders with made-up records of the shape that training writes: softmax grows a sink, the other two do not.

Letters: L layers, H heads, G key-value heads, T query positions, S key positions, N heads of sequences, F neurons,
C channels, K bins or tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import synthetic_act

from sinkpretrain.config import Config, ModelConfig, OptimizerConfig, ValidationConfig
from sinkpretrain.files import write_json
from sinkpretrain.runs import Run

LAYERS, HEADS, POSITIONS, NEURONS, CHANNELS, SEQUENCES = 6, 4, 128, 96, 48, 16
MAPPED = 64  # positions of an attention map
POSITION, INTERVENTION_SEEDS = 10, (0, 1, 2)  # what interventions are about, and the seeds of their texts
SUPER_LAYER, SUPER_NEURON, MASSIVE_CHANNEL = 1, 41, 7
UNIFORM = (np.sum(1 / np.arange(1, POSITIONS + 1)) - 1) / (POSITIONS - 1)
TOKENS = ("<s>", "\n", ".", ",", " the", " of", "$", " é", *(f" word{number}" for number in range(24)))
PROBED_TEXT = {"text": "validation", "sequences": SEQUENCES, "tokens": POSITIONS}
STEPS = 1000
PROBED = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, STEPS)
ATTENTION = {
    "softmax": {},
    "sigmoid": {"weights": {"name": "sigmoid"}},
    "head_rmsnorm": {"output": [{"name": "head_rmsnorm"}]},
}
UNIGRAM_ENTROPY = 6.25


def config(variant: str, seed: int) -> Config:
    """A small run of 1000 steps of 2048 tokens."""
    model = ModelConfig(n_layers=LAYERS, context_length=POSITIONS, attention=ATTENTION.get(variant, {}))
    optimizer = OptimizerConfig(learning_rate=2e-3 if variant == "head_rmsnorm" else 1e-3)
    budget = {"tokens": 2048 * STEPS, "global_batch_size": 16, "micro_batch_size": 16}
    budget |= {"validation": ValidationConfig(every=100)}
    return Config(name="demo", variant=variant, seed=seed, model=model, optimizer=optimizer, **budget)


@dataclass(frozen=True)
class Model:
    """How far a variant's training is: `grown` is 0 untrained and near 1 at the end."""

    variant: str
    rng: np.random.Generator
    grown: float

    @property
    def sinking(self) -> float:
        return self.grown * (self.variant == "softmax")

    @property
    def sink_L(self) -> np.ndarray:
        return self.sinking * np.clip(np.arange(LAYERS) - 1, 0, 3) / 3

    @property
    def mass(self) -> float:
        return 0.3 if self.variant == "sigmoid" else 1.0

    def noise(self, *shape: int) -> np.ndarray:
        return self.rng.uniform(0.95, 1.05, shape)


def probe(variant: str, seed: int, step: int) -> dict[str, np.ndarray]:
    """All arrays of one probe record."""
    model = Model(variant, np.random.default_rng([seed, step, len(variant)]), step / (step + 150))
    parts = (layers, maps, received, tokens, output_alignment, neurons, directions)
    return {name: array for part in parts for name, array in part(model).items()}


def layers(model: Model) -> dict[str, np.ndarray]:
    """Attention, norms and ranks by layer, and variance by position."""
    noise_LH = model.noise(LAYERS, HEADS)
    noise_L = noise_LH.mean(axis=1)
    layer, sink_L, grown = np.arange(LAYERS), model.sink_L, model.grown
    raw_LH = (UNIFORM * (1 + 0.1 * grown) + 0.6 * sink_L)[:, None] * noise_LH
    rate_LH = np.clip(raw_LH - 0.2, 0, None) * 1.8 * (model.variant == "softmax")
    decay_T = 1 / np.arange(1, POSITIONS + 1)
    falling_LT = np.outer(0.02 * (1 + grown) * noise_L, decay_T ** (1 - 0.2 * grown))
    flat_LT = np.outer(0.01 * noise_L, decay_T**0.1)
    mixed_LT = flat_LT if model.variant == "sigmoid" else falling_LT
    out_LT = 0.3 * (falling_LT if model.variant == "softmax" else flat_LT)
    late = slice(POSITIONS // 2, None)
    return {
        "first_token_attention/raw": raw_LH * model.mass,
        "first_token_attention/normalised": raw_LH,
        "first_token_attention/uniform": np.array(UNIFORM),
        "sink_rate/first": rate_LH,
        "sink_rate/first_normalised": rate_LH + 0.02 * (model.variant == "sigmoid"),
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
        "value_norm/first": (2 - 1.8 * sink_L)[:, None] * noise_LH,
        "value_norm/others": 2 * noise_LH,
        "value_norm/sinks": (2 - 1.6 * sink_L)[:, None] * noise_LH,
        "value_norm/not_sinks": 2.05 * noise_LH,
    }


def maps(model: Model) -> dict[str, np.ndarray]:
    """Mean attention maps."""
    uniform_TS = np.tril(np.ones((MAPPED, MAPPED))) / np.arange(1, MAPPED + 1)[:, None]
    first_TS = np.zeros((MAPPED, MAPPED))
    first_TS[:, 0] = 1
    share_L11 = 0.8 * model.sink_L[:, None, None]
    map_LTS = (1 - share_L11) * uniform_TS + share_L11 * first_TS
    return {"attention_map/normalised": map_LTS, "attention_map/raw": model.mass * map_LTS}


def received(model: Model) -> dict[str, np.ndarray]:
    """How the attention scores of positions are distributed, and where they pass a threshold."""
    looked_at = SEQUENCES * HEADS
    centre_LT = np.tile(1 / np.arange(4, POSITIONS + 4), (LAYERS, 1))
    centre_LT[:, 0] = UNIFORM + 0.6 * model.sink_L
    score_NLT = np.clip(centre_LT * np.exp(model.rng.normal(0, 0.5, (looked_at, LAYERS, POSITIONS))), 0, 1)
    flagged_NLT = score_NLT > 30 / POSITIONS * model.mass
    records = {
        "sink_positions/flagged": flagged_NLT.sum(axis=0),
        "sink_positions/flagged_causal_null": (flagged_NLT & (score_NLT > 3 * np.max(centre_LT[:, 1]))).sum(axis=0),
        "sink_positions/count": np.full((LAYERS, POSITIONS), looked_at),
        "score_distribution/edges": np.geomspace(1e-6, 1, 61),
    }
    later = np.arange(POSITIONS) > 0
    groups = {"first": ~later & (score_NLT >= 0), "sinks": later & flagged_NLT, "others": later & ~flagged_NLT}
    for name, chosen_NLT in groups.items():
        for suffix, mass in (("", model.mass), ("_normalised", 1.0)):
            counts = [
                np.histogram(mass * score_NLT[:, layer][chosen_NLT[:, layer]], records["score_distribution/edges"])[0]
                for layer in range(LAYERS)
            ]
            records[f"score_distribution/{name}{suffix}"] = np.array(counts)
    return {name: array.astype(np.float64) for name, array in records.items()}


def tokens(model: Model) -> dict[str, np.ndarray]:
    """Tokens by how often they are flagged as sinks."""
    place_K = np.arange(len(TOKENS))
    seen_K = 40_000 // (1 + place_K) + 500
    first_K = np.round(0.02 * seen_K * (0.2 + 4 * model.sinking) / (1 + place_K))
    later_K = np.round(0.01 * seen_K * model.noise(len(TOKENS)))
    records = {
        "token": 3 * place_K + 1,
        "first": first_K,
        "later": later_K,
        "later_causal_null": np.round(0.4 * later_K),
        "seen": seen_K,
        "flagged_total": np.array(1.3 * (first_K + later_K).sum()),
    }
    arrays = {f"sink_tokens/{name}": array.astype(np.float64) for name, array in records.items()}
    return arrays | {"sink_tokens/text": np.array(TOKENS)}


def output_alignment(model: Model) -> dict[str, np.ndarray]:
    """Rank correlation of W_O's rows with the variance of what is mixed."""
    shift_L = 0.32 * model.sinking * (np.arange(LAYERS) == SUPER_LAYER)
    tau_LC = np.clip(model.rng.normal(shift_L[:, None], 0.08, (LAYERS, CHANNELS)), -1, 1)
    return {"output_alignment/tau": tau_LC, "output_alignment/mean": tau_LC.mean(axis=1)}


def neurons(model: Model) -> dict[str, np.ndarray]:
    """The feed-forward weights and activations of every neuron, and of the layer's strongest by position."""
    super_LF = np.zeros((LAYERS, NEURONS))
    super_LF[SUPER_LAYER, SUPER_NEURON] = model.sinking
    super_L = super_LF.max(axis=1)
    first_T = (np.arange(POSITIONS) == 0).astype(np.float64)
    first_LF = 0.1 * model.noise(LAYERS, NEURONS) + 80 * super_LF
    others_LF = 0.1 * model.noise(LAYERS, NEURONS)
    gate_norm_LF = model.rng.normal(1, 0.05, (LAYERS, NEURONS)) + 2 * super_LF
    up_LT = 0.2 * model.rng.normal(size=(LAYERS, POSITIONS)) + 12 * np.outer(super_L, first_T)
    cosine_LT = 0.02 * model.rng.normal(size=(LAYERS, POSITIONS)) + 0.8 * np.outer(super_L, first_T)
    down_LC = 0.03 * model.rng.normal(size=(LAYERS, CHANNELS))
    down_LC[:, MASSIVE_CHANNEL] += 1.5 * super_L
    return {
        "super_neurons/gate_norm": gate_norm_LF,
        "super_neurons/up_norm": model.rng.normal(0.9, 0.05, (LAYERS, NEURONS)) + 1.5 * super_LF,
        "super_neurons/down_norm": model.rng.normal(0.9, 0.05, (LAYERS, NEURONS)) + 1.5 * super_LF,
        "super_neurons/flagged": (super_LF > 0.3).astype(np.float64),
        "super_neurons/top3_share": 0.15 * model.noise(LAYERS, NEURONS) + 0.7 * super_LF,
        "super_neurons/kurtosis": 3 * model.noise(LAYERS, NEURONS) + 40 * super_LF,
        "super_neurons/first": first_LF,
        "super_neurons/others": others_LF,
        "super_neurons/peak_first": first_LF.max(axis=1),
        "super_neurons/peak_others": others_LF.max(axis=1),
        "gate_similarity/neuron": gate_norm_LF.argmax(axis=1).astype(np.float64),
        "gate_similarity/gate_cosine": cosine_LT,
        "gate_similarity/up": up_LT,
        "gate_similarity/activation": cosine_LT * up_LT,
        "gate_similarity/down": down_LC,
    }


def directions(model: Model) -> dict[str, np.ndarray]:
    """The first token's key and normed direction, and the heads' entropies and variances."""
    sink_L, noise_LH = model.sink_L, model.noise(LAYERS, HEADS)
    noise_L = noise_LH.mean(axis=1)
    entropy_LH = model.rng.uniform(1, 4, (LAYERS, HEADS))
    balanced = 0.1 if model.variant == "head_rmsnorm" else 1.0
    return {
        "key_alignment/alignment": np.clip((0.15 + 0.8 * sink_L)[:, None] * noise_LH, 0, 1),
        "key_alignment/alignment_queries": np.clip((0.2 + 0.7 * sink_L)[:, None] * noise_LH, 0, 1),
        "key_alignment/positive": np.clip((0.5 + 0.45 * sink_L)[:, None] * noise_LH, 0, 1),
        "norm_direction/top_share_first": (0.05 + 0.85 * sink_L) * noise_L,
        "norm_direction/top_share_others": 0.04 * noise_L,
        "norm_direction/cosine_first": (0.2 + 0.7 * sink_L) * noise_L,
        "norm_direction/cosine_others": 0.15 * noise_L,
        "head_balance/entropy": entropy_LH,
        "head_balance/variance": np.exp(-balanced * entropy_LH) * noise_LH,
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
            peaks_L = record["super_neurons/peak_first"] / record["super_neurons/peak_others"]
            row["activation/neuron_peak_ratio"] = float(peaks_L.max())
        rows.append(row)
    return rows


def intervention_row(model: Model, condition: str, strength: float | None, effect: float) -> dict[str, object]:
    """One line of an intervention's record; `effect` is how far the position has become a sink like the first."""
    score_T = 1 / np.arange(4, MAPPED + 4) * model.noise(MAPPED)
    score_T[0] = UNIFORM + 0.4 * model.sinking * (1 - 0.5 * effect)
    score_T[POSITION] += 0.3 * effect
    first_L = (UNIFORM + 0.6 * model.sink_L * (1 - effect)) * model.noise(LAYERS)
    received_L = 0.05 + 0.3 * effect * model.noise(LAYERS)
    return {
        "condition": condition,
        "strength": strength,
        "position": POSITION,
        "received": float(score_T[POSITION]),
        "received_raw": float(model.mass * score_T[POSITION]),
        "first_token_attention": float(first_L.mean()),
        "sink_rate": 0.5 * effect,
        "sink_rate_first": 0.7 * model.sinking,
        "dominance": 4 + 50 * effect,
        "dominance_first": 4 + 60 * model.sinking,
        "neuron_peak": 0.1 + 20 * effect,
        "neuron_peak_first": 0.1 + 80 * model.sinking,
        "perplexity": float(30 * (1 + 0.2 * effect) * model.noise(1)[0]),
        "entropy_others": float(2.5 * model.noise(1)[0]),
        "score_by_position": score_T.tolist(),
        "score_by_layer": received_L.tolist(),
        "first_by_layer": first_L.tolist(),
    }


def interventions(variant: str, seed: int) -> dict[str, dict[str, object]]:
    """The records of all interventions on a trained run."""
    conditions: dict[str, list[tuple[str, float | None, float]]] = {
        "isolate_position": [("isolate_position", 1.0, 0.9)],
        "amplify_variance": [
            *(("amplify_variance", factor, 1 - 1 / factor) for factor in (1.0, 2.0, 4.0, 8.0)),
            *(("scale_norm", factor, 0.01 * (factor - 1)) for factor in (1.0, 2.0, 4.0, 8.0)),
            *(("random_direction", factor - 1, 0.02 * (factor - 1)) for factor in (1.0, 2.0, 4.0, 8.0)),
        ],
        "ablate_super_neurons": [("ablate_super_neurons", 1.0, 0.8), ("random_neurons", 1.0, 0.03)],
        "densify_down_projection": [
            *(("densify_down_projection", share, 0.6 * share) for share in (0.5, 1.0)),
            *(("random_densified", share, 0.02 * share) for share in (0.5, 1.0)),
        ],
    }
    records = {}
    for name, measured in conditions.items():
        about = {"intervention": name, "text": "held-out", "tokens": MAPPED, "sequences": SEQUENCES, "bos": "none"}
        rows = []
        for text_seed in INTERVENTION_SEEDS:
            model = Model(variant, np.random.default_rng([seed, text_seed, len(variant), len(name)]), 0.9)
            for condition, strength, effect in [("none", None, 0.0), *measured]:
                rows.append(intervention_row(model, condition, strength, effect) | {"seed": text_seed})
        more = {
            "seeds": list(INTERVENTION_SEEDS),
            "position": POSITION,
            "layers": [0] if name == "amplify_variance" else None,
        }
        records[name] = {"about": about | more, "rows": rows}
    return records


def write_run(folder: Path, variant: str, seed: int, *, until: int = STEPS, probes: bool = True) -> Run:
    """One run folder; `until` below STEPS leaves it running."""
    run = Run(folder)
    run.create(config(variant, seed))
    for row in metric_rows(variant, seed, until):
        run.append_metrics(row)
    for step in PROBED if probes else ():
        if step <= until:
            run.write_probe(step, probe(variant, seed, step), PROBED_TEXT)
    for name, record in interventions(variant, seed).items() if probes and until == STEPS else ():
        write_json(run.intervention_path(name), record)
    if probes and until == STEPS:
        write_json(run.heads_path, synthetic_act.search(variant, seed))
        write_json(run.evaluation_path("made_up"), synthetic_act.evaluation(variant, seed))
        np.savez(run.act_maps_path, **synthetic_act.maps(variant, seed))
    run.write_status("done" if until == STEPS else "running", step=until, parameters=1_500_000, flops_per_token=9.1e6)
    write_json(folder / "environment.json", {"python": "3.11.2", "packages": {"torch": "2.13.0"}, "device": "cpu"})
    splits = {"validation": {"unigram_entropy_nats": UNIGRAM_ENTROPY}}
    manifest = {"source": "sotu", "fingerprint": 64 * "f", "splits": splits}
    write_json(folder / "data_manifest.json", manifest)
    return run


def write_runs(root: Path, variants: tuple[str, ...] = tuple(ATTENTION), seeds: int = 2) -> list[Run]:
    """An experiment: every variant with its seeds, in the order given."""
    return [write_run(root / "demo" / f"{v}-s{seed}", v, seed) for v in variants for seed in range(seeds)]
