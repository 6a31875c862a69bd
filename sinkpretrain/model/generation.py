"""Greedy generation with a key-value cache, for batches of prompts of different lengths.

Shapes use B batch, T positions, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch

from sinkpretrain.errors import ConfigError
from sinkpretrain.model.llama import KeyValueCache, Llama

PADDED, PROMPT, GENERATED = -1, 0, 1  # documents of a batch


@torch.no_grad()
def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    stop: Callable[[list[int]], bool] | None = None,
    eos: int | None = None,
) -> list[list[int]]:
    """The most probable next token, over and over: for each prompt the tokens after it, without the prompt.

    The prompts are padded on the left and form one batch; what comes out does not depend on what else is in it. Inside
    `calibrate`, sinks are those that the rows of the prompt show.

    Args:
        model: in eval mode.
        prompts: token ids, none of them empty.
        new_tokens: at most so many.
        stop: told the tokens generated so far; true ends that prompt after its latest token.
        eos: a token that ends its prompt and is left out.

    Raises:
        ConfigError: an empty prompt, or one that leaves no room for a new token in the model's context.
    """
    longest = max(map(len, prompts))
    if not all(prompts):
        raise ConfigError("a prompt to generate from is empty; give it a token")
    if longest >= model.config.context_length:
        limit = model.config.context_length - 1
        raise ConfigError(f"a prompt has {longest} tokens; allowed: 1 .. {limit}, the model's context less one")
    device = model.embedding.weight.device
    padding = [longest - len(prompt) for prompt in prompts]
    tokens_BT = torch.tensor([[0] * pad + list(p) for pad, p in zip(padding, prompts, strict=True)], device=device)
    index_T = torch.arange(longest, device=device)
    document_BT = torch.where(index_T < torch.tensor(padding, device=device)[:, None], PADDED, PROMPT)
    cache, going = KeyValueCache(), [True] * len(prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    for _ in range(min(new_tokens, model.config.context_length - longest)):
        x_BTC = model.residual(tokens_BT, document_BT, shared_prompt=True, cache=cache)
        chosen_B = model.logits(x_BTC[:, -1:])[:, -1].argmax(dim=-1)
        for index, token in enumerate(chosen_B.tolist()):
            if not going[index]:
                continue
            if token != eos:
                answers[index].append(token)
            going[index] = token != eos and not (stop is not None and stop(answers[index]))
        if not any(going):
            break
        tokens_BT = chosen_B[:, None]
        document_BT = torch.full_like(tokens_BT, GENERATED)
    return answers
