"""Initial values: every parameter from its own hash of (seed, name), so that variants share what they share.

| `init` | embedding and linear weights | W_O | W_down | source |
|---|---|---|---|---|
| `gpt2` | normal, std 0.02 | 0.02 / sqrt(2 L) | 0.02 / sqrt(2 L) | Radford et al. 2019 |
| `fan_in` | normal, std sqrt(2 / (5 fan_in)) | same | 1 / (L sqrt(fan_in)) | 2410.10781 and its released code |

L is the number of layers, fan_in the number of a weight's columns. Norm gains start at one, the sink logits at zero.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

GPT2_STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fill the weights of a `Llama` in place. Tied weights count once, under the embedding's name."""
    config = model.config
    init, layers = str(config.init), int(config.n_layers)  # type: ignore[union-attr, arg-type]
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            std = _std(module, module_name, name, parameter, init, layers)
            if std is not None and not (module_name == "head" and parameter is model.embedding.weight):  # type: ignore[union-attr]
                parameter.copy_(_normal(seed, f"{module_name}.{name}", parameter, std))


def fingerprints(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Shape and SHA-256 of each weight, by name: what runs that began alike have in common."""
    return {name: {"shape": list(weight.shape), "sha256": _sha256(weight)} for name, weight in weights.items()}


def _sha256(weight: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and bytes, in hexadecimal."""
    array = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{array.dtype} {tuple(array.shape)} ".encode())
    digest.update(array.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _std(module: nn.Module, module_name: str, name: str, parameter: Tensor, init: str, layers: int) -> float | None:
    """Standard deviation of a parameter's initial values; None: it keeps the constant it was built with."""
    random_parameters: dict[str, float] = getattr(module, "random_parameters", {})
    if name in random_parameters:
        return random_parameters[name]
    if not isinstance(module, nn.Linear | nn.Embedding):
        return None
    fan_in = parameter.shape[1]
    leaf = module_name.rpartition(".")[2]
    if init == "gpt2":
        return GPT2_STD / math.sqrt(2 * layers) if leaf in ("w_o", "w_down") else GPT2_STD
    return 1 / (layers * math.sqrt(fan_in)) if leaf == "w_down" else math.sqrt(2 / (5 * fan_in))


def _normal(seed: int, name: str, like: Tensor, std: float) -> Tensor:
    """Normal values that depend on the seed and the name alone; drawn on the CPU in float32 for every device."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(like.shape, dtype=torch.float32).normal_(std=std, generator=generator)
