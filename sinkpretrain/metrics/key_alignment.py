"""Whether queries are built to meet the first token's key.

Shapes use B batch, T query positions, N documents, H query heads, G key-value heads, E query heads of a key-value head,
D head size, C model width, L layers.
"""

from typing import ClassVar

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from sinkpretrain.metrics.base import Arrays, LayerView, Metric, Sums, above, at_least_float32, double, mean


class KeyAlignment(Metric):
    """By layer and head, how the key at position 0 lies to the head's queries (2605.06611, section 4.3, Fig. 12).

    `alignment`: |cosine| of that key with the principal direction of the head's query map in R^D, the first left
    singular vector of its D x C block of W_Q; mean over documents, sqrt(2 / (pi D)) or so by chance.
    `alignment_queries`: the cosine's root mean square with the principal direction of the queries themselves (t >= 1,
    after RoPE, not centred), which the inputs of W_Q shape as well; 1 / sqrt(D) or so by chance. RoPE leaves the key at
    position 0 as it is. `positive`: share of the queries t >= 1 of each document with q . k_0 > 0. No units.
    """

    taps = ("q", "k")
    arrays: ClassVar[dict[str, str]] = {"alignment": "LH", "alignment_queries": "LH", "positive": "LH"}

    def measure(self, view: LayerView) -> Sums:
        """Sums over first tokens, and over the queries after them, [H]; second moments of both, [H, D, D]."""
        q_BTHD, k_BTGD = (at_least_float32(view.taps[name]) for name in ("q", "k"))
        heads, size = q_BTHD.shape[2:]
        shared = heads // k_BTGD.shape[2]
        key_NHD = repeat(k_BTGD[view.first_BT], "n g d -> n (g e) d", e=shared)
        unit_NHD = torch.nn.functional.normalize(double(key_NHD), dim=-1)
        direction_HD = principal_directions(query_moments(view.matrices["w_q"], size))
        later_NHD = double(q_BTHD[~view.first_BT])
        start_BT = torch.arange(q_BTHD.shape[1], device=q_BTHD.device) - view.position_BT
        first_BTGD = k_BTGD.gather(1, start_BT[:, :, None, None].expand_as(k_BTGD))
        q_BTGED = rearrange(q_BTHD, "b t (g e) d -> b t g e d", e=shared)
        product_BTH = torch.einsum("btged,btgd->btge", q_BTGED, first_BTGD).flatten(2)
        return {
            "alignment": torch.einsum("nhd,hd->nh", unit_NHD, direction_HD).abs().sum(dim=0),
            "key_moments": torch.einsum("nhd,nhe->hde", unit_NHD, unit_NHD),
            "query_moments": torch.einsum("nhd,nhe->hde", later_NHD, later_NHD),
            "documents": double(view.first_BT.sum()),
            "positive": double(above(product_BTH, 0.0)[~view.first_BT]).sum(dim=0),
            "queries": double((~view.first_BT).sum()),
        }

    def finish(self, sums: Arrays) -> Arrays:
        """Means over documents, and over queries."""
        direction_LHD = principal_directions(torch.from_numpy(sums["query_moments"])).numpy()
        squares_LH = np.einsum("lhd,lhde,lhe->lh", direction_LHD, sums["key_moments"], direction_LHD)
        return {
            "alignment": mean(sums["alignment"], sums["documents"]),
            "alignment_queries": np.sqrt(mean(squares_LH, sums["documents"])),
            "positive": mean(sums["positive"], sums["queries"]),
        }


def query_moments(w_q: Tensor, head_size: int) -> Tensor:
    """W W^T of each head's D x C block W of W_Q, float64 [H, D, D]: its eigenvectors are W's left singular vectors."""
    block_HDC = rearrange(double(w_q), "(h d) c -> h d c", d=head_size)
    return torch.einsum("hdc,hec->hde", block_HDC, block_HDC)


def principal_directions(moments: Tensor) -> Tensor:
    """The eigenvector of the largest eigenvalue of each matrix, [..., D] of [..., D, D]; its sign is arbitrary.

    NaN where a matrix is not finite.
    """
    finite = moments.isfinite().all(dim=-1).all(dim=-1)[..., None]
    vectors: Tensor = torch.linalg.eigh(moments.where(finite[..., None], 0.0)).eigenvectors
    return vectors[..., -1].where(finite, torch.nan)
