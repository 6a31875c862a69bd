"""Which positions a super neuron answers to.

Shapes use B batch, T positions, C model width, L layers.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, at_least_float32, double, mean, sum_by_position
from sinkpretrain.metrics.super_neurons import neurons


class GateSimilarity(Metric):
    """One neuron of each layer by position, mean over sequences (2605.06611, Fig. 9; its W_down column, Fig. 10).

    `neuron`: its index, the one whose gate and up norms stand out most (see `super_neurons`; it need not be flagged).
    `gate_cosine`: cosine of `mlp_in` with its row of W_gate. `up`: its W_up row times `mlp_in`. `activation`: its
    `mlp_hidden`, silu(gate) times up. `down`: its column of W_down, by channel. Activation units; positions within a
    document, NaN where no document reaches.
    """

    taps = ("mlp_in", "mlp_hidden")
    arrays: ClassVar[dict[str, str]] = {
        "neuron": "L",
        "gate_cosine": "LT",
        "up": "LT",
        "activation": "LT",
        "down": "LC",
    }

    def measure(self, view: LayerView) -> Sums:
        """Sums over sequences by position, [T]."""
        _, neuron = neurons(view.matrices)
        in_BTC = at_least_float32(view.taps["mlp_in"])
        values = {
            "gate_cosine": torch.cosine_similarity(in_BTC, view.matrices["w_gate"][neuron].to(in_BTC.dtype), dim=-1),
            "up": in_BTC @ view.matrices["w_up"][neuron].to(in_BTC.dtype),
            "activation": view.taps["mlp_hidden"][..., neuron],
            "count": torch.ones_like(in_BTC[..., 0]),
        }
        return {name: sum_by_position(view, value_BT[:, None])[0] for name, value_BT in values.items()}

    def weigh(self, matrices: Mapping[str, Tensor]) -> Sums:
        """Which neuron it is, and its W_down column."""
        _, neuron = neurons(matrices)
        return {"neuron": torch.tensor(float(neuron)).double(), "down": double(matrices["w_down"][:, neuron])}

    def finish(self, sums: Arrays) -> Arrays:
        """Means over sequences."""
        by_position = {name: mean(sums[name], sums["count"]) for name in ("gate_cosine", "up", "activation")}
        return {"neuron": sums["neuron"], **by_position, "down": sums["down"]}
