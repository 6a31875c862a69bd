"""AdamW and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from sinkpretrain.config import OptimizerConfig, ScheduleConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with two groups: decayed and not. With `decay: linear` only weights of linear layers decay.

    A head tied to the embedding is an embedding and does not decay; an untied head does.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - embeddings
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if config.decay == "all" or id(parameter) in linear]
    chosen = {id(parameter) for parameter in decayed}
    rest = [parameter for parameter in parameters if id(parameter) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),
    )


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of the update that follows `step` updates, out of `steps`.

    The warmup reaches the peak at update `warmup_steps`; `cosine` and `wsd` reach `final_fraction` of it at the last.
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    last = steps - 1
    if schedule.shape == "constant":
        return peak
    if schedule.shape == "wsd":
        decay = max(1, round(schedule.decay_fraction * steps))
        progress = max(0.0, (step - (last - decay)) / decay)
        return peak * (1 - (1 - schedule.final_fraction) * progress)
    progress = min(1.0, (step - schedule.warmup_steps) / max(1, last - schedule.warmup_steps))
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * (1 + math.cos(math.pi * progress)) / 2)
