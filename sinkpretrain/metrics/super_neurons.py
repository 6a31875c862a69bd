"""Super neurons: feed-forward neurons whose weights stand out and that the first token alone activates.

Shapes use B batch, T positions, N tokens, C model width, F feed-forward neurons, L layers.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, at_least_float32, double, mean

DEVIATIONS = 6.0  # median absolute deviations above the median: an outlier
TOP_CHANNELS = 3


class SuperNeurons(Metric):
    """Each feed-forward neuron's weights and activations, by layer (2605.06611, section 4.2, Figs. 8 and 10).

    Of the weights, once: `gate_norm` and `up_norm`, l2 norms of its rows of W_gate and W_up; `down_norm`, of its column
    of W_down; `top3_share`, the share of that column's energy in its 3 largest channels; `kurtosis` of the column (3
    for normal weights); `flagged`: 1 where the gate and the up norm are both above the layer's median + 6 median
    absolute deviations. Of the activations |mlp_hidden|: the mean at position 0 of each document, `first`, and
    elsewhere, `others`; `peak_first` and `peak_others`, the same of the largest neuron of each token.
    """

    taps = ("mlp_hidden",)
    arrays: ClassVar[dict[str, str]] = {
        "gate_norm": "LF",
        "up_norm": "LF",
        "down_norm": "LF",
        "flagged": "LF",
        "top3_share": "LF",
        "kurtosis": "LF",
        "first": "LF",
        "others": "LF",
        "peak_first": "L",
        "peak_others": "L",
    }

    def measure(self, view: LayerView) -> Sums:
        """Sums over the first positions and over the others, kept apart."""
        size_BTF = at_least_float32(view.taps["mlp_hidden"]).abs()
        sums = {}
        for name, chosen_BT in (("first", view.first_BT), ("others", ~view.first_BT)):
            size_NF = size_BTF[chosen_BT]
            sums[name] = double(size_NF).sum(dim=0)
            sums[f"peak_{name}"] = double(size_NF.amax(dim=-1)).sum()
            sums[f"{name}_count"] = double(chosen_BT.sum())
        return sums

    def weigh(self, matrices: Mapping[str, Tensor]) -> Sums:
        """Norms of the neurons' weights, and how they spread over channels, [F]."""
        down_CF = double(matrices["w_down"])
        energy_CF = down_CF.square()
        centred_CF = down_CF - down_CF.mean(dim=0)
        top_CF = energy_CF.topk(min(TOP_CHANNELS, len(energy_CF)), dim=0).values
        return {
            "gate_norm": torch.linalg.vector_norm(double(matrices["w_gate"]), dim=1),
            "up_norm": torch.linalg.vector_norm(double(matrices["w_up"]), dim=1),
            "down_norm": energy_CF.sum(dim=0).sqrt(),
            "top3_share": top_CF.sum(dim=0) / energy_CF.sum(dim=0),
            "kurtosis": centred_CF.pow(4).mean(dim=0) / centred_CF.square().mean(dim=0).square(),
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Means over tokens, beside what the weights say."""
        weights = {name: sums[name] for name in ("gate_norm", "up_norm", "down_norm", "top3_share", "kurtosis")}
        outlying_LF = outlyingness(sums["gate_norm"], sums["up_norm"])
        return {
            **weights,
            "flagged": np.where(np.isnan(outlying_LF), np.nan, outlying_LF > DEVIATIONS),
            **{name: mean(sums[name], sums[f"{name}_count"]) for name in ("first", "others")},
            **{f"peak_{name}": mean(sums[f"peak_{name}"], sums[f"{name}_count"]) for name in ("first", "others")},
        }

    def scalars(self, arrays: Arrays) -> dict[str, float]:
        """The largest ratio over layers: the strongest neuron of the first token against that of the others."""
        return {"activation/neuron_peak_ratio": float((arrays["peak_first"] / arrays["peak_others"]).max())}


def outlyingness(gate_norm_LF: NDArray[np.float64], up_norm_LF: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many median absolute deviations the smaller outlier of a neuron's two norms is above its median, [..., F]."""
    return np.minimum(_deviations(gate_norm_LF), _deviations(up_norm_LF))


def neurons(matrices: Mapping[str, Tensor]) -> tuple[list[int], int]:
    """The flagged neurons of a layer, rising, and its strongest candidate, whether flagged or not."""
    gate_norm_F, up_norm_F = (
        torch.linalg.vector_norm(double(matrices[name]), dim=1).cpu().numpy() for name in ("w_gate", "w_up")
    )
    outlying_F = outlyingness(gate_norm_F, up_norm_F)
    return np.flatnonzero(outlying_F > DEVIATIONS).tolist(), int(outlying_F.argmax())


def _deviations(norm_LF: NDArray[np.float64]) -> NDArray[np.float64]:
    above_LF = norm_LF - np.median(norm_LF, axis=-1, keepdims=True)
    spread_L1 = np.median(np.abs(above_LF), axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(above_LF == 0, 0.0, above_LF / spread_L1)
