"""The tables of last values: a row of numbers for each run."""

from collections.abc import Callable, Sequence
from typing import Any

from sinkpretrain.figures.base.arms import config_of, probed, recorded
from sinkpretrain.report.tables import NOTHING, Columns, cell, imported, number, read_json, run_table
from sinkpretrain.runs import Run

COMPARABLE = ("tokens", "parameters", "FLOPs a token")


def _parameters(run: Run) -> str:
    return number(run.status().get("parameters"), ",.0f")


def _shape(of: Callable[[Any], int | None]) -> Callable[[Run], str]:
    """What shows a number of the model's shape."""
    return lambda run: number(of(config_of(run).model), ",")


def _flops(run: Run) -> str:
    """Floating-point operations of training on one token, in millions."""
    value = run.status().get("flops_per_token")
    return NOTHING if value is None else f"{value / 1e6:,.4g} M"


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


MODELS: Columns = {
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
TRAINING: Columns = {
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
FIRST, RATE = "first_token_attention", "sink_rate/first"
SINKS: Columns = {
    "first-token attention": cell(".4f", recorded("sink/first_token_mean"), probed(f"{FIRST}/raw")),
    "rows divided by their sum": cell(
        ".4f", recorded("sink/first_token_mean_normalised"), probed(f"{FIRST}/normalised")
    ),
    "uniform attention": cell(".4f", probed(f"{FIRST}/uniform")),
    "sink rate": cell(".4f", recorded("sink/rate"), probed(RATE)),
    "sink rate, rows divided by their sum": cell(".4f", recorded("sink/rate_normalised"), probed(f"{RATE}_normalised")),
    "effective rank": cell(".1f", recorded("rank/effective_mean"), probed("effective_rank/all")),
    "dominance ratio": cell(".1f", recorded("activation/dominance_mean"), probed("dominance_ratio/first")),
}


def summary(runs: Sequence[Run]) -> str:
    """Tables of one row a run: imported models, TRAINING, and sinks, as far as there is something to show."""
    elsewhere = [run for run in runs if imported(run)]
    trained = [run for run in runs if not imported(run)]
    return "".join(
        (
            run_table("Models from elsewhere.", MODELS, elsewhere),
            run_table("Training: the last recorded value of each run.", TRAINING, trained, COMPARABLE),
            run_table("Sinks at the last probe: means over layers and heads.", SINKS, runs),
        )
    )
