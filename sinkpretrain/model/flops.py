"""Floating-point operations of the model, counted from its matrix products.

A product of an m x k by a k x n matrix is 2 m k n operations; the backward pass costs twice the forward pass
(appendix B of PaLM, 2204.02311). Attention counts the causal half: a query at position t meets t + 1 keys.
"""

import torch
from torch import nn

from sinkpretrain.config import ModelConfig
from sinkpretrain.model.llama import Llama


def count_parameters(config: ModelConfig) -> int:
    """Trainable parameters, tied ones once."""
    return sum(parameter.numel() for parameter in _meta(config).parameters())


def flops_per_token(config: ModelConfig) -> float:
    """Training operations a token: 6 x weights of the linear layers (the head too) + 6 L H D (T + 1) for attention.

    The second term is 3 passes x 2 products (scores, mixing) x 2 operations x H D x (T + 1) / 2 keys on average.
    """
    linear = sum(module.weight.numel() for module in _meta(config).modules() if isinstance(module, nn.Linear))
    attention = config.n_layers * config.n_heads * config.head_size * (config.context_length + 1)
    return 6.0 * (linear + attention)


def _meta(config: ModelConfig) -> Llama:
    with torch.device("meta"):
        return Llama(config)
