"""A model whose weights, gradients and AdamW moments are divided over the devices, and ways to see it whole.

`fully_shard` divides each parameter along its first axis; a block's are gathered for its forward and backward pass
alone. What reads weights, or calls the model by another method than its forward, works on `whole(model)`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from sinkpretrain.model.llama import Llama


def shard(model: Llama, mesh: DeviceMesh) -> None:
    """Divide a model over a one-dimensional mesh, in place: block by block, then what is left of it."""
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(model: Llama) -> Llama:
    """The model with all its weights on this device: itself, or a copy of a sharded one; every rank must ask."""
    if not is_sharded(model):
        return model
    with torch.device("meta"):
        copy = Llama(model.config)
    copy.load_state_dict(gathered(weights(model)), strict=False, assign=True)
    if model.config.tie_embeddings:
        copy.head.weight = copy.embedding.weight
    return copy.train(model.training)


def weights(model: Llama) -> dict[str, Tensor]:
    """The parameters by name, detached; tied ones once, under the embedding's name."""
    assert not list(model.buffers()), "a checkpoint holds parameters only"
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def gathered(state: Any) -> Any:
    """The same nest of mappings and lists with every divided tensor whole; every rank must ask."""
    return tree_map(lambda value: value.full_tensor() if isinstance(value, DTensor) else value, state)


def scattered(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict of whole tensors, each divided as the parameter of this optimizer that it goes with."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def divided(parameter: Tensor, value: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    return {
        **state,
        "state": {
            index: {name: divided(parameters[index], value) for name, value in entries.items()}
            for index, entries in state["state"].items()
        },
    }
