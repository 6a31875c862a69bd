"""Whether two implementations of a model say the same.

Shapes use B batch, T positions, V vocabulary.
"""

import torch
from torch import Tensor

from sinkpretrain.model.llama import Llama

TOKENS = 256
# Between two float32 implementations: absolute, or relative to the largest logit where that is more.
LOGIT_ERROR, RELATIVE_LOGIT_ERROR = 1e-4, 1e-5


def parity_tokens(model: Llama) -> Tensor:
    """Random token ids, tokens_BT; the same ones each time."""
    size, length = model.embedding.num_embeddings, min(model.config.context_length, TOKENS)
    return torch.randint(size, (1, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logit_parity(model: Llama, theirs_BTV: Tensor) -> dict[str, float]:
    """How far our logits on `parity_tokens` are from another implementation's, and how far they may be."""
    tokens_BT = parity_tokens(model)
    error = float((model(tokens_BT) - theirs_BTV).abs().max())
    allowed = max(LOGIT_ERROR, RELATIVE_LOGIT_ERROR * float(theirs_BTV.abs().max()))
    return {"tokens": tokens_BT.numel(), "max_abs_logit_error": error, "allowed": allowed}


def too_far(parity: dict[str, float]) -> bool:
    """Whether the error is above what rounding explains; a NaN is."""
    return not parity["max_abs_logit_error"] <= parity["allowed"]
