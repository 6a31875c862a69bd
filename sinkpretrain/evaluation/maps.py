"""Attention maps before and after ACT (2406.15765, Fig. 4), of one prompt.

Shapes use T query positions, S key positions, B batch, H query heads, R a block of query rows.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sinkpretrain.attention.base import Mask
from sinkpretrain.calibration import Heads, Settings
from sinkpretrain.calibration.act import applied
from sinkpretrain.data.tokenizer import token_text
from sinkpretrain.evaluation.encoding import Encoder
from sinkpretrain.files import write_arrays
from sinkpretrain.interventions.base import weights_of
from sinkpretrain.model.llama import Llama
from sinkpretrain.taps import record

MOST_TOKENS = 160  # a map of more cannot be read


def write_maps(
    path: Path, model: Llama, encoder: Encoder, prompt: Sequence[int], heads: Heads, settings: Settings
) -> None:
    """Write the mean attention map of the heads on the first tokens of a prompt, `before` and `after` ACT [T, S].

    Beside them `sinks` [S], the share of the heads in which a column is a sink, the `tokens` and the `heads`. Without
    heads there is nothing to write. `after` is of the calibrated model: calibration of earlier layers is in it.
    """
    if not heads:
        return
    tokens_BT = torch.tensor([list(prompt)[:MOST_TOKENS]], device=model.embedding.weight.device)
    before_TS = mean_map(model, tokens_BT, heads)
    with applied(model, heads, settings) as act:
        after_TS = mean_map(model, tokens_BT, heads)
        flags = [act.sinks[layer][0, head].double() for layer, head in heads]
    arrays = {
        "before": before_TS.cpu().numpy(),
        "after": after_TS.cpu().numpy(),
        "sinks": torch.stack(flags).mean(dim=0).cpu().numpy(),
        "tokens": np.array([token_text(encoder.tokenizer, token) for token in tokens_BT[0].tolist()]),
        "heads": np.array(json.dumps([list(head) for head in heads])),
    }
    write_arrays(path, arrays)


@torch.no_grad()
def mean_map(model: Llama, tokens_BT: Tensor, heads: Heads) -> Tensor:
    """The attention weights of one sequence, mean over the heads, float64 [T, S]; one layer's exist at a time."""
    with record(model, "q", "k") as taps:
        model.residual(tokens_BT)
    mask = Mask(tokens_BT.shape[1], tokens_BT.device)
    total_TS = torch.zeros(tokens_BT.shape[1], tokens_BT.shape[1], dtype=torch.float64)
    for layer in sorted({layer for layer, _ in heads}):
        chosen = [head for of, head in heads if of == layer]
        for row, weights_BHRS in weights_of(model, layer).rows(taps["q"][layer], taps["k"][layer], mask):
            total_TS[row : row + weights_BHRS.shape[2]] += weights_BHRS[0, chosen].sum(dim=0).double().cpu()
    return total_TS / len(heads)
