"""What a run would take, computed without starting it: `train --dry-run`."""

from typing import Any

from sinkpretrain.config import Config
from sinkpretrain.model.flops import count_parameters, flops_per_token

FLOAT32 = 4  # bytes
ADAM_COPIES = 4  # weights, gradients, two moments
# Float32 activations of a block that the backward pass keeps, in multiples of the model's width and of the feed-forward
# width, counted from model/llama.py: norms, q, k, v, mixed, W_O's input, two residuals; gate, up, silu, product.
WIDTHS_KEPT, FEED_FORWARD_WIDTHS_KEPT = 12, 4
LOGITS_KEPT = 3  # the logits, their float32 copy or log-softmax, their gradient


def plan(config: Config) -> dict[str, Any]:
    """Parameters, tokens, steps, operations, memory and disk of a run. Memory is an estimate a device, in bytes."""
    processes = config.devices * config.nodes
    model = config.model
    shares = processes if config.strategy == "sharded" else 1
    assert model.vocab_size is not None
    parameters = count_parameters(model)
    positions = config.windows_per_pass * model.context_length
    per_position = model.n_layers * (WIDTHS_KEPT * model.d_model + FEED_FORWARD_WIDTHS_KEPT * model.d_ff)
    activations = FLOAT32 * positions * (per_position + LOGITS_KEPT * model.vocab_size)
    checkpoint = parameters * FLOAT32 * 3
    flops = flops_per_token(model)
    return {
        "parameters": parameters,
        "steps": config.steps,
        "tokens": config.steps * config.tokens_per_step,
        "tokens_per_step": config.tokens_per_step,
        "processes": processes,
        "windows_per_pass": config.windows_per_pass,
        "accumulation": config.accumulation,
        "flops_per_token": flops,
        "flops": flops * config.steps * config.tokens_per_step,
        "memory_bytes": parameters * FLOAT32 * ADAM_COPIES / shares + activations,
        "disk_bytes": checkpoint * (config.checkpoints.keep + 1),
    }


def describe(planned: dict[str, Any]) -> str:
    """The plan as lines for people."""
    gib = 2**30
    return "\n".join(
        [
            f"parameters      {planned['parameters']:,}",
            f"tokens          {planned['tokens']:,} in {planned['steps']:,} steps of {planned['tokens_per_step']:,}",
            f"micro-batches   {planned['accumulation']} of {planned['windows_per_pass']} windows, a device and step; "
            f"{planned['processes']} device{'s' * (planned['processes'] > 1)}",
            f"operations      {planned['flops_per_token'] / 1e6:,.1f} M a token, {planned['flops']:.3g} in all",
            f"memory          about {planned['memory_bytes'] / gib:.2f} GiB a device, with AdamW and activations",
            f"disk            {planned['disk_bytes'] / gib:.2f} GiB (checkpoints kept, and one being written)",
        ]
    )
