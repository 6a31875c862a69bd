"""What one condition does to a model: everything that a row of an experiment's record says.

Shapes use B batch, T positions, S key positions, C model width, F feed-forward neurons, L layers.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkpretrain.data.windows import IGNORED, Batch
from sinkpretrain.interventions.base import Effect, applied
from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, above, at_least_float32, mean, sum_by_position
from sinkpretrain.metrics.sink_rate import THRESHOLD
from sinkpretrain.model.llama import Llama, next_token_loss, perplexity
from sinkpretrain.probing import Sequences, measure_layers, measuring


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One state of the model: an intervention of the registry with its options, or None for the untouched one."""

    name: str
    kind: str | None = None
    options: dict[str, Any]
    strength: float | None = None


def read_condition(model: Llama, condition: Condition, batch: Batch, position: int) -> dict[str, Any]:
    """What a row says of one condition: one pass over the batch. `changed`: whether the condition changed anything."""
    change = nullcontext(Effect()) if condition.kind is None else applied(model, condition.kind, **condition.options)
    layers: list[Arrays] = []
    metric = _Reading()

    def visit(view: LayerView) -> None:
        layers.append({key: value.cpu().numpy() for key, value in metric.measure(view).items()})

    with measuring(model), change as effect:
        resid_BTC = measure_layers(model, Sequences(batch.tokens_BT, batch.document_BT), [metric], visit)
        nats = sum(  # a sequence's logits exist at a time
            float(next_token_loss(model.head(model.norm(resid_BTC[row, None])), target_T[None]))
            for row, target_T in enumerate(batch.targets_BT)
        )
    targets = int((batch.targets_BT != IGNORED).sum())
    sums = {key: np.stack([layer[key] for layer in layers]) for key in layers[0]}
    row = {**_row(metric.finish(sums), position), "perplexity": perplexity(nats / targets), "changed": effect.changed}
    return {name: _json(value) for name, value in row.items()}


class _Reading(Metric):
    """Means by layer and position (of each document) of all that a row says."""

    taps = ("resid_out", "mlp_hidden")
    reads_attention = True
    arrays: ClassVar[dict[str, str]] = {
        "score": "LT",
        "score_raw": "LT",
        "sinks": "LT",
        "first": "LT",
        "entropy": "LT",
        "dominance": "LT",
        "peak": "LT",
        "rows": "LT",
    }

    def measure(self, view: LayerView) -> Sums:
        """Sums over sequences and heads by position, and how many were counted."""
        assert view.attention is not None
        attention = view.attention
        resid_BTC, hidden_BTF = (at_least_float32(view.taps[name]).abs() for name in self.taps)
        has_mass_BHT = attention.mass_BHT != 0
        seen_BHS = attention.queries_normalised_BHS > 0
        by_head = {
            "score": attention.score_normalised_BHS.where(seen_BHS, 0.0),
            "sinks": above(attention.score_normalised_BHS, THRESHOLD).where(seen_BHS, 0.0),
            "score_count": seen_BHS,
            "score_raw": attention.score_BHS,
            "first": attention.first_normalised_BHT.where(has_mass_BHT, 0.0),
            "entropy": attention.entropy_BHT.where(has_mass_BHT, 0.0),
            "rows": has_mass_BHT,
            "heads": torch.ones_like(has_mass_BHT),
        }
        by_token: dict[str, Tensor] = {
            "dominance": resid_BTC.amax(dim=-1) / resid_BTC.mean(dim=-1),
            "peak": hidden_BTF.amax(dim=-1),
            "tokens": torch.ones_like(resid_BTC[..., 0]),
        }
        values = by_head | {name: value_BT[:, None] for name, value_BT in by_token.items()}
        return {name: sum_by_position(view, value_BHT).sum(dim=0) for name, value_BHT in values.items()}

    def finish(self, sums: Arrays) -> Arrays:
        """Means over sequences and heads; `rows` stays the number of rows with mass."""
        count = {"score": "score_count", "sinks": "score_count", "score_raw": "heads"}
        count |= {"first": "rows", "entropy": "rows", "dominance": "tokens", "peak": "tokens"}
        means = {name: mean(sums[name], sums[of]) for name, of in count.items()}
        return {**means, "rows": sums["rows"]}


def _row(means: Arrays, position: int) -> dict[str, Any]:
    """The numbers of a row from the means by layer and position."""
    later = np.arange(means["rows"].shape[1]) >= 1
    others = later & (np.arange(len(later)) != position)
    first_L = _weighted(means["first"], means["rows"] * later)
    return {
        "received": float(means["score"][:, position].mean()),
        "received_raw": float(means["score_raw"][:, position].mean()),
        "first_token_attention": float(first_L.mean()),
        "sink_rate": float(means["sinks"][:, position].mean()),
        "sink_rate_first": float(means["sinks"][:, 0].mean()),
        "dominance": float(means["dominance"][:, position].max()),
        "dominance_first": float(means["dominance"][:, 0].max()),
        "neuron_peak": float(means["peak"][:, position].max()),
        "neuron_peak_first": float(means["peak"][:, 0].max()),
        "entropy_others": float(_weighted(means["entropy"], means["rows"] * others).mean()),
        "score_by_position": means["score"].mean(axis=0).tolist(),
        "score_by_layer": means["score"][:, position].tolist(),
        "first_by_layer": first_L.tolist(),
    }


def _json(value: float | list[float]) -> Any:
    """A number or numbers as JSON has them: null for NaN and infinity."""
    if isinstance(value, list):
        return [_json(one) for one in value]
    return value if math.isfinite(value) else None


def _weighted(value_LT: NDArray[np.float64], count_LT: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over positions, each as often as it was counted."""
    counted_LT = np.where(count_LT > 0, value_LT * count_LT, 0.0)
    mean_L: NDArray[np.float64] = counted_LT.sum(axis=1) / count_LT.sum(axis=1)
    return mean_L
