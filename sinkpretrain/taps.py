"""Taps: named identity modules in the forward path, read or replaced inside a `with` block, free otherwise.

Shapes use B batch, T positions, H query heads, G key-value heads, D head size, C model width, F feed-forward width.

| tap | shape | what it is |
|---|---|---|
| `resid_in` | `_BTC` | the residual stream that the block's attention reads |
| `q`, `k` | `_BTHD`, `_BTGD` | queries and keys as they enter the scores, after RoPE |
| `v` | `_BTGD` | values |
| `mixed` | `_BTHD` | values mixed by the attention weights (z) |
| `head_out` | `_BTHD` | what goes to W_O, after the output transforms (o) |
| `attn_out` | `_BTC` | what attention adds to the residual stream |
| `mlp_in` | `_BTC` | the normed input of the feed-forward layer |
| `mlp_hidden` | `_BTF` | silu(gate) * up, what W_down reads |
| `mlp_out` | `_BTC` | what the feed-forward layer adds to the residual stream |
| `resid_out` | `_BTC` | the residual stream after the block |
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from sinkpretrain.errors import ConfigError

TAPS = (
    "resid_in",
    "q",
    "k",
    "v",
    "mixed",
    "head_out",
    "attn_out",
    "mlp_in",
    "mlp_hidden",
    "mlp_out",
    "resid_out",
)

Watcher = Callable[[Tensor], Tensor | None]


class Tap(nn.Module):
    """An identity that calls its watchers; a watcher that returns a tensor replaces what flows on."""

    def __init__(self, name: str, layer: int) -> None:
        super().__init__()
        assert name in TAPS, name
        self.name = name
        self.layer = layer
        self.watchers: list[Watcher] = []

    def forward(self, x: Tensor) -> Tensor:
        """`x`, or what the last replacing watcher made of it."""
        for watcher in self.watchers:
            replacement = watcher(x)
            x = x if replacement is None else replacement
        return x


@contextmanager
def watch(model: nn.Module, name: str, watcher: Watcher, layer: int | None = None) -> Iterator[None]:
    """Attach a watcher to one tap, of one layer or of all, inside the block.

    A compiled model runs uncompiled meanwhile: its graph was traced without the watcher.

    Raises:
        ConfigError: a tap or a layer that the model does not have.
    """
    taps = _taps(model, name)
    chosen = [tap for tap in taps if layer is None or tap.layer == layer]
    if not chosen:
        raise ConfigError(f"layer {layer} is not one of 0 .. {len(taps) - 1}")
    with torch.compiler.set_stance("force_eager"):
        for tap in chosen:
            tap.watchers.append(watcher)
        try:
            yield
        finally:
            for tap in chosen:
                tap.watchers.remove(watcher)


@contextmanager
def record(model: nn.Module, *names: str) -> Iterator[dict[str, dict[int, Tensor]]]:
    """What flows through the named taps: `recorded[name][layer]` after a forward pass, detached.

    Each forward pass inside the block replaces what the one before recorded.
    """
    recorded: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    with ExitStack() as stack:
        for name in names:
            for tap in _taps(model, name):
                keep = partial(_keep, recorded[name], tap.layer)
                stack.enter_context(watch(model, name, keep, tap.layer))
        yield recorded


@contextmanager
def replace(
    model: nn.Module, name: str, function: Callable[[Tensor], Tensor], layer: int | None = None
) -> Iterator[None]:
    """`function` of what flows through a tap flows on instead, inside the block; leaving restores the model."""
    with watch(model, name, function, layer):
        yield


def _taps(model: nn.Module, name: str) -> list[Tap]:
    if name not in TAPS:
        raise ConfigError(f"tap {name!r} is not one of {', '.join(TAPS)}")
    return [module for module in model.modules() if isinstance(module, Tap) and module.name == name]


def _keep(kept: dict[int, Tensor], layer: int, x: Tensor) -> None:
    kept[layer] = x.detach()
