"""Whether a model computes the attention that its configuration names; a run asks before its first step.

Shapes use B batch, T query positions, S key positions, H query heads, G key-value heads, D head size, C model width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sinkpretrain import registry
from sinkpretrain.attention.base import AttentionWeights, Mask
from sinkpretrain.data.windows import Batch
from sinkpretrain.errors import SinkpretrainError
from sinkpretrain.model.llama import Block, Llama
from sinkpretrain.taps import watch

WATCHED = ("resid_in", "q", "k", "v", "mixed", "head_out")  # in the order of the forward pass
WINDOWS, TOKENS = 2, 64  # at most so many of the batch are looked at
# Of the largest mixed value of a layer. Fused kernels sum in another order, and below float32 they round the weights
# and what they mix: a few units of rounding (2^-11 of float16, 2^-8 of bfloat16).
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
ADVICE = (
    "a run would be compared under a name that is not its own, so nothing was trained; look at what changed in the code"
)


@torch.no_grad()
def refuse_ignored_variant(model: Llama, batch: Batch) -> None:
    """Raise unless the forward pass does to a few tokens what `model.config.attention` says.

    In every block, the kinds and their options are the configuration's, in its order. Within a forward pass of the
    model itself, whatever path it takes: what is mixed equals the explicit definition's weights times the values, from
    the queries, keys and values of that pass, in float32 and within `TOLERANCE`; what goes to W_O equals the output
    transforms applied to it one by one, and differs from it where there are any.

    That another kind's weights differ from softmax is not asked: those of a learned sink or key may rightly come close
    to it, and a path that computes softmax in their place does not equal their definition. That a parameter of a kind
    is used shows in its gradient, which training refuses to miss.

    Call it under the autocast of the training pass, so that the same kernels run; on every rank where the model is
    divided. A compiled model is judged uncompiled. Takes no random numbers and leaves the model in its mode.

    Raises:
        SinkpretrainError: names the layer, and what differs by how much.
    """
    for layer, block in enumerate(_blocks(model)):
        _refuse_other_kinds(model, block, layer)
    tokens_BT, document_BT = _few(batch)
    device = model.embedding.weight.device
    tokens_BT, document_BT = tokens_BT.to(device), None if document_BT is None else document_BT.to(device)
    judged: list[int] = []
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        for layer, block in enumerate(_blocks(model)):
            judge = _Judge(block, layer, Mask(tokens_BT.shape[1], device, document_BT), judged)
            for tap in WATCHED:
                stack.enter_context(watch(model, tap, partial(judge, tap), layer))
        model(tokens_BT, document_BT)
    if missing := sorted(set(range(len(model.blocks))) - set(judged)):
        raise SinkpretrainError(
            f"layer {missing[0]}: the forward pass does not go through the taps of its attention, so nobody can tell "
            f"what it computes; {ADVICE}"
        )


class _Judge:
    """Watches the taps of one layer in one pass and compares within it: divided weights are there only then."""

    def __init__(self, block: Block, layer: int, mask: Mask, judged: list[int]) -> None:
        self.block, self.layer, self.mask, self.judged = block, layer, mask, judged
        self.kind: AttentionWeights = block.attention.weights
        self.transforms = list(block.attention.output)
        self.seen: dict[str, Tensor] = {}

    def __call__(self, tap: str, x: Tensor) -> None:
        self.seen[tap] = x
        if tap == WATCHED[-1] and len(self.seen) == len(WATCHED):
            self._refuse_other_mix()
            self._refuse_other_output()
            self.judged.append(self.layer)

    def _refuse_other_mix(self) -> None:
        q_BTHD, k_BTGD, v_BTGD, mixed_BTHD = (self.seen[tap] for tap in ("q", "k", "v", "mixed"))
        wide = torch.promote_types(mixed_BTHD.dtype, torch.float32)
        with torch.autocast(mixed_BTHD.device.type, enabled=False):
            rows = [rows_BHRS for _, rows_BHRS in self.kind.rows_plain(q_BTHD.to(wide), k_BTGD.to(wide), self.mask)]
            expected_BTHD = self.kind.combine(torch.cat(rows, dim=2), v_BTGD.to(wide))
        self._refuse_difference(mixed_BTHD, expected_BTHD, f"what '{_name(self.kind)}' mixes is not its definition's")

    def _refuse_other_output(self) -> None:
        mixed_BTHD, out_BTHD = self.seen["mixed"], self.seen["head_out"]
        x_BTC = self.block.attention_norm(self.seen["resid_in"])
        expected_BTHD = mixed_BTHD
        for transform in self.transforms:
            expected_BTHD = transform(expected_BTHD, x_BTC)
        names = [_name(transform) for transform in self.transforms]
        self._refuse_difference(out_BTHD, expected_BTHD, f"what goes to W_O is not the mixed values after {names}")
        if names and torch.equal(out_BTHD, mixed_BTHD):
            raise SinkpretrainError(f"layer {self.layer}: {names} leave the mixed values as they are; {ADVICE}")

    def _refuse_difference(self, found_BTHD: Tensor, expected_BTHD: Tensor, what: str) -> None:
        if not expected_BTHD.isfinite().all():
            return  # no definition to hold it against; the loss is not finite either, which training refuses
        largest = float(expected_BTHD.abs().max())
        difference = float((found_BTHD.to(expected_BTHD.dtype) - expected_BTHD).abs().max())
        allowed = TOLERANCE[found_BTHD.dtype] * largest
        if not difference <= allowed:
            dtype = str(found_BTHD.dtype).removeprefix("torch.")
            raise SinkpretrainError(
                f"layer {self.layer}: {what} (largest difference {difference:.3g}, allowed {allowed:.3g}, largest "
                f"value {largest:.3g}, {dtype}); {ADVICE}"
            )


def _blocks(model: Llama) -> Iterator[Block]:
    for block in model.blocks:
        assert isinstance(block, Block)
        yield block


def _refuse_other_kinds(model: Llama, block: Block, layer: int) -> None:
    """Raise where a block's modules are not the configuration's kinds and options, in its order."""
    attention = model.config.attention
    wanted = [_wanted("attention.weights", attention.weights)]
    wanted += [_wanted("attention.output", entry) for entry in attention.output]
    modules: Sequence[Any] = [block.attention.weights, *block.attention.output]
    has = [(_name(module), module.options) for module in modules]
    if has != wanted:
        raise SinkpretrainError(
            f"layer {layer}: its attention is {_listed(has)}, model.attention asks for {_listed(wanted)}; {ADVICE}"
        )


def _wanted(kind: str, entry: Mapping[str, Any]) -> tuple[str, Any]:
    """Name and options of an entry in the configuration."""
    options = {key: value for key, value in entry.items() if key != "name"}
    return entry["name"], registry.build_options(kind, entry["name"], options, f"model.{kind}")


def _name(module: object) -> str:
    """The registry's name of a kind: that of the file that defines it."""
    return type(module).__module__.rpartition(".")[2]


def _listed(kinds: Sequence[tuple[str, Any]]) -> str:
    return " then ".join(name if options is None else f"{name} with {options}" for name, options in kinds)


def _few(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The first tokens of the first windows; with documents another one begins in the middle, to be told apart."""
    tokens_BT, document_BT = batch.tokens_BT[:WINDOWS, :TOKENS], batch.document_BT
    if document_BT is None:
        return tokens_BT, None
    document_BT = document_BT[:WINDOWS, :TOKENS].clone()
    document_BT[:, document_BT.shape[1] // 2 :] += 1
    return tokens_BT, document_BT


@contextmanager
def _evaluating(model: Llama) -> Iterator[None]:
    """Without dropout inside the block; every module is in its own mode afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
