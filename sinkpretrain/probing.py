"""Runs metrics over text: one pass over the model serves all metrics that need the same text.

Shapes use B batch, T positions.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sinkpretrain import registry
from sinkpretrain.attention.base import Mask
from sinkpretrain.data.windows import Batch
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.metrics.base import Arrays, AttentionSummary, Inputs, LayerView, Metric, Sums
from sinkpretrain.model.llama import Block, Llama
from sinkpretrain.taps import record, watch

HeldOut = Callable[[int], Iterable[Batch]]
Reduce = Callable[[Sums], Sums]


class Record(NamedTuple):
    """What a probe found: arrays named `<metric>/<array>` (float64, but for texts), and values for metrics.jsonl."""

    arrays: dict[str, NDArray[Any]]
    scalars: dict[str, float]


class Sequences(NamedTuple):
    """Text to run the model on."""

    tokens_BT: Tensor
    document_BT: Tensor | None


class Request(NamedTuple):
    """The `Inputs` of a metric, settled for one model; metrics with equal requests share a pass."""

    text: Literal["held_out", "random"]
    tokens: int
    sequences: int


class Probe:
    """Metrics, the text to measure them on, and how to batch it.

    Args:
        metrics: names in the registry `metrics`.
        held_out: gives batches of so many held-out sequences, the same ones each time; it may give fewer where there
            is no more text, and the sums count what there was.
        sequences: held-out sequences for the metrics that do not fix a number.
        tokens: the length of the held-out sequences; None: the model's context length.
        batch_size: sequences a forward pass; results do not depend on it.
        separator: a token id that random text leaves out, since it may act as a BOS.
        seed: of the random text.
        token_text: gives the text of a token id, for records of tokens.

    Raises:
        ConfigError: an unknown metric, or a size below one.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        held_out: HeldOut,
        sequences: int = 16,
        tokens: int | None = None,
        batch_size: int = 8,
        separator: int | None = None,
        seed: int = 0,
        token_text: Callable[[int], str] | None = None,
    ) -> None:
        for name, size in (("sequences", sequences), ("tokens", tokens), ("batch_size", batch_size)):
            if size is not None and size < 1:
                raise ConfigError(f"{name}: {size} is out of range; allowed: >= 1")
        self.metrics: dict[str, Metric] = {name: registry.load("metrics", name)() for name in metrics}
        self.held_out, self.sequences, self.tokens, self.batch_size = held_out, sequences, tokens, batch_size
        self.separator, self.seed, self.token_text = separator, seed, token_text

    def run(self, model: Llama, *, rank: int = 0, world: int = 1, reduce: Reduce = lambda sums: sums) -> Record:
        """Measure a model as it stands; it, torch's random numbers and its modes are left as they were.

        Args:
            model: in float32 or wider, on any device; explicit attention and metrics run without autocast or TF32.
            rank: which share of the batches to run here: every `world`-th from this one on, and there may be none.
            world: number of shares; 1 and 2 give the same values bit for bit.
            reduce: adds each named sum up over the ranks; called once, with the same names and shapes on each.

        Raises:
            ConfigError: weights narrower than float32.
            DataError: no held-out text.
        """
        _refuse_narrow(model)
        sums: Sums = {}
        with measuring(model):
            for request, names in self._requests(model).items():
                sums |= self._add_up(model, request, names, rank, world)
        sums = reduce(sums)
        found = Record({}, {})
        for name, metric in self.metrics.items():
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): of.cpu().numpy() for key, of in sums.items() if key.startswith(prefix)}
            arrays = metric.finish(own | _weighed(model, metric))
            found.arrays.update({f"{name}/{array}": value for array, value in arrays.items()})
            found.scalars.update(metric.scalars(arrays))
        if self.token_text and "sink_tokens/token" in found.arrays:
            texts = [self.token_text(int(token)) for token in found.arrays["sink_tokens/token"]]
            found.arrays["sink_tokens/text"] = np.array(texts)
        return found

    def _requests(self, model: Llama) -> dict[Request, list[str]]:
        """The passes to make over the model, and the metrics that each serves."""
        requests: dict[Request, list[str]] = defaultdict(list)
        for name, metric in self.metrics.items():
            requests[self._request(metric.inputs, model)].append(name)
        return requests

    def _request(self, inputs: Inputs, model: Llama) -> Request:
        context = model.config.context_length
        longest = min(self.tokens or context, context) if inputs.text == "held_out" else context
        tokens = min(inputs.tokens or longest, longest)
        least = math.ceil(inputs.tokens_per_channel * model.config.d_model / tokens)
        return Request(inputs.text, tokens, max(inputs.sequences or self.sequences, least))

    def _add_up(self, model: Llama, request: Request, names: Sequence[str], rank: int, world: int) -> Sums:
        """The sums of some metrics over this rank's share of one text, `<metric>/<sum>`, stacked over layers.

        Even and odd batches are summed apart and joined last: one process then adds in the order of two.
        """
        metrics = {name: self.metrics[name] for name in names}
        totals: dict[str, dict[tuple[int, int], Tensor]] = defaultdict(dict)

        def add(number: int, view: LayerView) -> None:
            for name, metric in metrics.items():
                for key, value in metric.measure(view).items():
                    total, place = totals[f"{name}/{key}"], (view.layer, number % 2)
                    total[place] = total[place] + value if place in total else value

        for number, batch in islice(enumerate(self._batches(request, model)), rank, None, world):
            measure_layers(model, batch, metrics.values(), partial(add, number))
        has_share = bool(totals)
        if not has_share:
            # A rank without sequences still takes part in the reduction, with zeros of the same shapes.
            for batch in islice(self._batches(request, model), 1):
                measure_layers(model, batch, metrics.values(), partial(add, 0))
        if not totals:
            raise DataError(f"probes: there is no held-out text for {', '.join(names)}; prepare more text")
        sums = {key: _joined(total) for key, total in totals.items()}
        return sums if has_share else {key: torch.zeros_like(value) for key, value in sums.items()}

    def _batches(self, request: Request, model: Llama) -> Iterator[Sequences]:
        """The text, at most `batch_size` sequences at a time, on the model's device; the same for any rank."""
        device = model.embedding.weight.device
        random = request.text == "random"
        for batch in [self._random(model, request)] if random else self.held_out(request.sequences):
            for first in range(0, len(batch.tokens_BT), self.batch_size):
                rows = slice(first, first + self.batch_size)
                document_BT = batch.document_BT
                yield Sequences(
                    batch.tokens_BT[rows, : request.tokens].to(device),
                    None if document_BT is None else document_BT[rows, : request.tokens].to(device),
                )

    def _random(self, model: Llama, request: Request) -> Sequences:
        """Uniform random tokens, the same for every batch size and number of ranks."""
        ids = model.embedding.num_embeddings - (self.separator is not None)
        generator = torch.Generator().manual_seed(self.seed)
        tokens_BT = torch.randint(ids, (request.sequences, request.tokens), generator=generator)
        if self.separator is not None:
            tokens_BT += tokens_BT >= self.separator
        return Sequences(tokens_BT, None)


def _joined(total: dict[tuple[int, int], Tensor]) -> Tensor:
    """Sums by (layer, even or odd batch): added over the second, stacked over layers."""
    layers = sorted({layer for layer, _ in total})
    parts = [[total[layer, parity] for parity in (0, 1) if (layer, parity) in total] for layer in layers]
    return torch.stack([of[0] if len(of) == 1 else of[0] + of[1] for of in parts])


def _weighed(model: Llama, metric: Metric) -> Arrays:
    """What a metric takes from the weights, stacked over layers."""
    of_layers = [metric.weigh(block.matrices) for block in model.blocks]  # type: ignore[arg-type]
    return {key: np.stack([of[key].cpu().numpy() for of in of_layers]) for key in of_layers[0]}


def measure_layers(
    model: Llama, batch: Sequences, metrics: Iterable[Metric], visit: Callable[[LayerView], None]
) -> Tensor:
    """Show each layer to `visit` as the forward pass leaves it, and drop its tensors: one layer's exist at a time.

    Returns the residual stream after the last block, resid_BTC.
    """
    metrics = list(metrics)
    reads_attention = any(metric.reads_attention for metric in metrics)
    names = {tap for metric in metrics for tap in metric.taps} | ({"q", "k"} if reads_attention else set())
    mask = Mask(batch.tokens_BT.shape[1], batch.tokens_BT.device, batch.document_BT)
    position_BT = mask.position.expand(batch.tokens_BT.shape)
    length_BT = document_lengths(position_BT)

    def leave(layer: int, _: Tensor) -> None:
        taps = {name: recorded[name].pop(layer) for name in names}
        block: Block = model.blocks[layer]  # type: ignore[assignment]

        def rows() -> Iterator[tuple[int, Tensor]]:
            return block.attention.weights.rows(taps["q"], taps["k"], mask)

        visit(
            LayerView(
                layer=layer,
                tokens_BT=batch.tokens_BT,
                vocab_size=model.embedding.num_embeddings,
                taps=taps,
                matrices=block.matrices,
                attention=AttentionSummary.of(rows(), position_BT, length_BT) if reads_attention else None,
                rows=rows,
                position_BT=position_BT,
                length_BT=length_BT,
                has_documents=batch.document_BT is not None,
            )
        )

    # `record` comes first: the last tap of a block is kept before the block is left.
    with record(model, *sorted(names)) as recorded, ExitStack() as stack:
        for layer in range(model.config.n_layers):
            stack.enter_context(watch(model, "resid_out", partial(leave, layer), layer))
        return model.residual(*batch)


def document_lengths(position_BT: Tensor) -> Tensor:
    """N of each position's document: how many of its tokens are in the window, given positions within documents."""
    document_BT = (position_BT == 0).cumsum(dim=1) - 1
    lengths_BT = torch.zeros_like(document_BT).scatter_add(1, document_BT, torch.ones_like(document_BT))
    return lengths_BT.gather(1, document_BT)


@contextmanager
def measuring(model: Llama) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast, float32 products in full; all as before at the end."""
    training = [module for module in model.modules() if module.training]
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.embedding.weight.device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for module in training:
            module.training = True


def _refuse_narrow(model: Llama) -> None:
    for name, parameter in model.named_parameters():
        if torch.finfo(parameter.dtype).bits < 32:
            raise ConfigError(f"{name}: is {parameter.dtype}; probes need float32 or wider, call model.float() first")
