"""Training runs that were not trained: run folders with made-up curves, and outcomes in memory for simulations.

Letters: V variants, S seeds, M metrics, K validations.
"""

import numpy as np

from sinkpretrain.comparison.outcomes_of_runs import PROBED, Outcome
from sinkpretrain.comparison.pairs import Pair
from sinkpretrain.comparison.tuning import Variant
from sinkpretrain.config import Config
from sinkpretrain.files import write_json
from sinkpretrain.mappings import build, merge
from sinkpretrain.runs import Run

STEPS = 100
UNTRAINED = 8.0  # nats
SHARED = {
    "name": "trial",
    "tokens": 16 * 64 * STEPS,
    "global_batch_size": 16,
    "micro_batch_size": 16,
    "model": {"vocab_size": 512, "context_length": 64},
    "data": {"store": "store"},
}
TOKENS = 16 * 64 * STEPS


def small(variant="softmax", seed=0, rate=1e-3, overrides=None):
    """The configuration of a run; `overrides` as YAML would give them."""
    own = {"variant": variant, "seed": seed, "optimizer": {"learning_rate": rate}}
    return build(Config, merge(merge(SHARED, own), overrides or {}), "")


def write_run(
    root, variant, seed, final, *, rate=1e-3, curve=(), probed=None, state="done", error=None, overrides=None, text="a"
):
    """A run whose validation loss falls in a line from UNTRAINED to `final`, or has a curve: (share of steps, loss)."""
    run = Run(root / f"{variant}-lr{rate:g}-s{seed}")
    config = small(variant, seed, rate, overrides)
    run.create(config)
    write_json(run.data_manifest_path, {"fingerprint": text * 64})
    points = curve or [(0, UNTRAINED), (0.5, (UNTRAINED + final) / 2), (1, final)]
    for share, loss in points:
        step = int(share * config.steps)
        row = {"step": step, "tokens": step * config.tokens_per_step, "seconds": 1.0, "val/loss": loss}
        run.append_metrics(row | (probed or {} if share == points[-1][0] else {}))
    run.write_status(state, parameters=1000, flops_per_token=6e3, **({"error": error} if error else {}))
    return run


def write_runs(root, finals, **more):
    """Runs of several variants: final losses by variant, one a seed."""
    return [
        write_run(root, variant, seed, final, **more)
        for variant, losses in finals.items()
        for seed, final in enumerate(losses)
    ]


CONFIG = small()
TOKENS_K = np.linspace(0, TOKENS, 11)


def outcome(name, seed, final, probed=(), rate=1e-3, tilt=0.0):
    """A finished run: a power law to its final loss; `tilt` moves the second half, so that speed is not loss alone."""
    loss_K = final + 2.0 * ((TOKENS_K / TOKENS + 0.05) ** -0.5 - 1.05**-0.5) + tilt * TOKENS_K / TOKENS
    loss_K[-1] = final
    return Outcome(
        root=f"{name}-s{seed}",
        variant=name,
        seed=seed,
        learning_rate=rate,
        state="done",
        config=CONFIG,
        final_loss=float(final),
        tokens_K=TOKENS_K,
        loss_K=loss_K,
        probed=dict(zip(PROBED, map(float, probed), strict=False)),
    )


def experiment(loss_VS, probed_VSM, tilt_VS):
    """The pairs of one simulated experiment: the first variant against the others, then the others."""
    variants = [
        Variant(
            name=f"v{place}",
            outcomes=tuple(
                outcome(f"v{place}", seed, loss_VS[place, seed], probed_VSM[place, seed], tilt=tilt_VS[place, seed])
                for seed in range(loss_VS.shape[1])
            ),
        )
        for place in range(len(loss_VS))
    ]
    return [Pair(baseline=one, variant=other) for place, one in enumerate(variants) for other in variants[place + 1 :]]
