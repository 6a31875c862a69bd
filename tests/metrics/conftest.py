"""Hand-made layers for metrics, and what a metric says of them.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from sinkpretrain import registry
from sinkpretrain.attention.base import Mask
from sinkpretrain.metrics.base import Arrays, AttentionSummary, LayerView
from sinkpretrain.probing import document_lengths

ROWS = 5  # rows a block, so that hand-made weights come in several blocks
VOCABULARY = 50


@pytest.fixture
def make_view() -> Callable[..., LayerView]:
    """Builds what a metric sees: weights_BHTS, tensors by tap, documents, tokens and the layer's matrices."""

    def make(
        weights_BHTS: Tensor | None = None,
        document_BT: Tensor | None = None,
        *,
        tokens_BT: Tensor | None = None,
        matrices: dict[str, Tensor] | None = None,
        **taps: Tensor,
    ) -> LayerView:
        some = weights_BHTS[:, 0, :, 0] if weights_BHTS is not None else next(iter(taps.values()))
        if tokens_BT is None:
            tokens_BT = torch.zeros(some.shape[0], some.shape[1], dtype=torch.long)
        position_BT = Mask(tokens_BT.shape[1], tokens_BT.device, document_BT).position.expand(tokens_BT.shape)
        length_BT = document_lengths(position_BT)

        def rows() -> Iterator[tuple[int, Tensor]]:
            for first in range(0, weights_BHTS.shape[2], ROWS):
                yield first, weights_BHTS[:, :, first : first + ROWS]

        return LayerView(
            layer=0,
            tokens_BT=tokens_BT,
            vocab_size=VOCABULARY,
            taps=taps,
            matrices=matrices or {},
            attention=None if weights_BHTS is None else AttentionSummary.of(rows(), position_BT, length_BT),
            rows=rows,
            position_BT=position_BT,
            length_BT=length_BT,
            has_documents=document_BT is not None,
        )

    return make


@pytest.fixture
def measured() -> Callable[..., Arrays]:
    """The record of one metric over some views of layer 0, each a batch, without the leading layer axis."""

    def measure(name: str, *views: LayerView) -> Arrays:
        metric = registry.load("metrics", name)()
        sums = [metric.measure(view) for view in views]
        total = {key: np.stack([sum(part[key] for part in sums).numpy()]) for key in sums[0]}
        weighed = {key: np.stack([value.numpy()]) for key, value in metric.weigh(views[0].matrices).items()}
        arrays = metric.finish(total | weighed)
        assert arrays.keys() == metric.arrays.keys()
        return {key: value[0] if metric.arrays[key].startswith("L") else value for key, value in arrays.items()}

    return measure


@pytest.fixture
def causal_weights() -> Callable[..., Tensor]:
    """Weights of each kind of row: uniform, all on the first key, or random rows that do not sum to one."""

    def weights(kind: str, batch: int, heads: int, tokens: int, document_BT: Tensor | None = None) -> Tensor:
        visible_BHTS = torch.ones(batch, heads, tokens, tokens).tril()
        if document_BT is not None:
            visible_BHTS = visible_BHTS * (document_BT[:, None, :, None] == document_BT[:, None, None, :])
        if kind == "random":
            return torch.rand(visible_BHTS.shape, generator=torch.Generator().manual_seed(3)) * visible_BHTS
        if kind == "first":
            visible_BHTS = visible_BHTS * (visible_BHTS.cumsum(dim=-1) == 1)
        return visible_BHTS / visible_BHTS.sum(dim=-1, keepdim=True)

    return weights


@pytest.fixture
def packed_BT() -> Tensor:
    """Two windows of 24 tokens: documents of 20 and 4 tokens, and of 1, 7 and 16."""
    return torch.tensor([[0] * 20 + [1] * 4, [0] + [1] * 7 + [2] * 16])


@pytest.fixture
def documents() -> Callable[[Tensor], list[tuple[int, slice]]]:
    """Each document as (window, its slice), found token by token."""

    def find(document_BT: Tensor) -> list[tuple[int, slice]]:
        found = []
        for window, document_T in enumerate(document_BT.tolist()):
            for document in sorted(set(document_T)):
                start = document_T.index(document)
                found.append((window, slice(start, start + document_T.count(document))))
        return found

    return find
