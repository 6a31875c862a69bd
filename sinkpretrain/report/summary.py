"""The first part of the page: what may be said of the runs, and a row of numbers for each."""

from collections.abc import Callable, Sequence
from typing import Any

from sinkpretrain.figures.base.arms import config_of, probed, recorded
from sinkpretrain.report.tables import NOTHING, Columns, cell, imported, number, read_json, run_table
from sinkpretrain.runs import Run

SEEDS_FOR_A_CLAIM = 3
COMPARABLE = ("tokens", "parameters", "FLOPs a token")


def verdict(runs: Sequence[Run]) -> str:
    """What may be said about which variant is better, from the seeds that every variant finished."""
    trained = [run for run in runs if not imported(run)]
    if not trained:
        return "Models from elsewhere, measured as they are: nothing was trained here."
    finished: dict[str, set[int]] = {}
    for run in trained:
        config = config_of(run)
        finished.setdefault(config.variant, set()).update({config.seed} if run.status().get("state") == "done" else ())
    if len(finished) < 2:
        return "One variant: nothing to compare."
    shared = len(set.intersection(*finished.values()))
    if shared < SEEDS_FOR_A_CLAIM:
        return (
            f"<strong>no claim</strong> about which variant is better: {shared} finished seed{'s' * (shared != 1)} "
            f"in common, and a claim needs at least {SEEDS_FOR_A_CLAIM}. The numbers below describe these runs only."
        )
    return (
        f"{shared} finished seeds in common. The numbers below are listed seed by seed and are not a verdict: that "
        "needs the differences paired over seeds, with an interval."
    )


def summary(runs: Sequence[Run]) -> str:
    """Tables of one row a run: imported models, training, and sinks, as far as there is something to show."""
    models: Columns = {
        "source": lambda run: str(read_json(run, run.source_path.name)["source"]),
        "parameters": _parameters,
        "layers": _shape(lambda model: model.n_layers),
        "query heads": _shape(lambda model: model.n_heads),
        "key-value heads": _shape(lambda model: model.n_kv_heads or model.n_heads),
        "width (channels)": _shape(lambda model: model.d_model),
        "feed-forward neurons": _shape(lambda model: model.d_ff),
        "context (tokens)": _shape(lambda model: model.context_length),
        "vocabulary": _shape(lambda model: model.vocab_size),
    }
    training: Columns = {
        "state": _state,
        "tokens": cell(",.0f", recorded("tokens")),
        "parameters": _parameters,
        "FLOPs a token": _flops,
        "validation loss (nats a token)": cell(".4f", recorded("val/loss")),
        "perplexity": cell(".2f", recorded("val/perplexity")),
        "bits a byte": cell(".4f", recorded("val/bits_per_byte")),
        "unigram entropy (nats)": lambda run: number(_unigram_entropy(run), ".4f"),
        "nats below it": _below_unigram,
        "tokens a second": cell(",.0f", recorded("perf/tokens_per_s")),
    }
    # A model that was not trained has a probe record, but no line in metrics.jsonl.
    first, rate = "first_token_attention", "sink_rate/first"
    sinks: Columns = {
        "first-token attention": cell(".4f", recorded("sink/first_token_mean"), probed(f"{first}/raw")),
        "rows divided by their sum": cell(
            ".4f", recorded("sink/first_token_mean_normalised"), probed(f"{first}/normalised")
        ),
        "uniform attention": cell(".4f", probed(f"{first}/uniform")),
        "sink rate": cell(".4f", recorded("sink/rate"), probed(rate)),
        "sink rate, rows divided by their sum": cell(
            ".4f", recorded("sink/rate_normalised"), probed(f"{rate}_normalised")
        ),
        "effective rank": cell(".1f", recorded("rank/effective_mean"), probed("effective_rank/all")),
        "dominance ratio": cell(".1f", recorded("activation/dominance_mean"), probed("dominance_ratio/first")),
    }
    elsewhere = [run for run in runs if imported(run)]
    trained = [run for run in runs if not imported(run)]
    return "".join(
        (
            run_table("Models from elsewhere.", models, elsewhere),
            run_table("Training: the last recorded value of each run.", training, trained, COMPARABLE),
            run_table("Sinks at the last probe: means over layers and heads.", sinks, runs),
        )
    )


def _parameters(run: Run) -> str:
    return number(run.status().get("parameters"), ",.0f")


def _shape(of: Callable[[Any], int | None]) -> Callable[[Run], str]:
    """What shows a number of the model's shape."""
    return lambda run: number(of(config_of(run).model), ",")


def _flops(run: Run) -> str:
    """Floating-point operations of training on one token, in millions."""
    value = run.status().get("flops_per_token")
    return NOTHING if value is None else f"{value / 1e6:,.4g} M"


def _state(run: Run) -> str:
    """The state, and how far the run is where it is not done."""
    status = run.status()
    if status.get("state") == "done" or "step" not in status:
        return str(status.get("state", NOTHING))
    return f"{status['state']}, {status['step'] / config_of(run).steps:.0%}"


def _unigram_entropy(run: Run) -> float | None:
    """The entropy of the validation text's tokens in nats, where the data manifest has it."""
    value: Any = read_json(run, run.data_manifest_path.name)
    for key in ("splits", "validation", "unigram_entropy_nats"):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _below_unigram(run: Run) -> str:
    """How far the loss is below the unigram entropy: what the model learned beyond token frequencies."""
    entropy, loss = _unigram_entropy(run), recorded("val/loss")(run)
    return number(None if entropy is None or loss is None else entropy - loss.value, ".4f")
