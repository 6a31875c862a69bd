"""A sweep with made-up records in which everything that can become of a run became of one."""

from dataclasses import replace

from synthetic_runs import STEPS, UNIGRAM_ENTROPY, config, metric_rows

from sinkpretrain.files import write_json
from sinkpretrain.runs import Run

RATES = (1e-3, 4e-3)
QUESTION = "Is <sigmoid> as good as softmax & quick?"
NON_FINITE = "NonFiniteError: step 401: the loss (nan) or its gradient (inf) is not finite"
RECIPE = {"sources": [{"name": "files", "path": "texts/*.txt"}], "tokenizer": {"name": "gpt2"}}


def member(root, variant, seed, rate, *, until=STEPS, state="done", error=None):
    """One run of the sweep; the higher rate is the better one, and sigmoid the worse variant."""
    run = Run(root / f"{variant}-lr{rate:g}-s{seed}")
    one = config(variant, seed)
    run.create(
        replace(
            one,
            name="sweep",
            data=replace(one.data, store="data/texts"),
            optimizer=replace(one.optimizer, learning_rate=rate),
        )
    )
    wave = 0.004 * ((7 * seed + len(variant)) % 5)
    shift = {1e-3: 0.1, 4e-3: 0.0}[rate] + {"softmax": 0.0, "sigmoid": 0.25}[variant] + wave
    for row in metric_rows(variant, seed, until):
        run.append_metrics({name: value + shift if name.endswith("loss") else value for name, value in row.items()})
    if state == "failed":
        run.append_metrics(
            {"step": until + 1, "tokens": 2048 * (until + 1), "seconds": 99.0, "train/loss": float("nan")}
        )
    more = {} if error is None else {"error": error}
    run.write_status(state, step=until, seconds=0.08 * until, parameters=1_500_000, flops_per_token=9.1e6, **more)
    environment = {"created": "2026-01-01", "versions": {"torch": "2.13.0"}, "cpu_threads": 2, "gpus": []}
    write_json(run.root / "environment.json", environment)
    manifest = {"recipe": RECIPE, "splits": {"validation": {"unigram_entropy_nats": UNIGRAM_ENTROPY}}}
    write_json(run.data_manifest_path, {**manifest, "fingerprint": "f" * 64})
    return run


def write_sweep(root):
    """Two variants, two rates, three seeds: one run diverged, one failed, one is running, one has not begun."""
    members = [(variant, rate, seed) for variant in ("softmax", "sigmoid") for rate in RATES for seed in range(3)]
    fates = {
        ("sigmoid", 1e-3, 0): {"until": 400, "state": "failed", "error": NON_FINITE},
        ("sigmoid", 1e-3, 1): {"until": 200, "state": "failed", "error": "OSError: no space left on <disk>"},
        ("sigmoid", 1e-3, 2): {"until": 120, "state": "running"},
        ("softmax", 1e-3, 2): None,
    }
    entries = [
        {"folder": f"{variant}-lr{rate:g}-s{seed}", "variant": variant, "seed": seed, "learning_rate": rate}
        for variant, rate, seed in members
    ]
    about = {
        "name": "sweep",
        "question": QUESTION,
        "baseline": "softmax",
        "slurm": {},
        "source": "configs/my sweep.yaml",
    }
    root.mkdir(parents=True)
    write_json(root / "experiment.json", {**about, "runs": entries})
    for variant, rate, seed in reversed(members):
        fate = fates.get((variant, rate, seed), {})
        if fate is not None:
            member(root, variant, seed, rate, **fate)
    return root
