"""What is probed and intervened on: a checkpoint, the text it runs on, and the run folder that keeps the records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sinkpretrain import checkpoints
from sinkpretrain.config import Config
from sinkpretrain.data.store import TokenStore
from sinkpretrain.data.text import TextTokens, read_text
from sinkpretrain.data.tokenizer import token_text
from sinkpretrain.data.windows import IGNORED, Batch, Windows
from sinkpretrain.errors import ConfigError, ResumeError
from sinkpretrain.model.importing import import_model
from sinkpretrain.model.llama import Llama, next_token_loss, perplexity
from sinkpretrain.model.load import load_model
from sinkpretrain.probing import Probe, Record
from sinkpretrain.records import about_held_out, read_record
from sinkpretrain.runs import Run

MODELS = Path("runs/models")  # where models that were named by their source are imported to
LONGEST = 1024  # tokens of a window, where an imported model's context is longer and nothing else was asked for

Bos = Literal["none", "document", "window"]


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """Which text: `path` None is the run's own held-out text; `tokens` and `bos` None are the run's."""

    path: Path | None = None
    tokens: int | None = None
    bos: Bos | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One checkpoint in memory, with its text cut into windows; `about` says what text that is."""

    run: Run
    step: int
    model: Llama
    tokenizer: Tokenizer
    windows: Windows
    about: dict[str, Any]

    @property
    def separator(self) -> int:
        """The token between documents, which random text leaves out."""
        return self.windows.store.separator

    def held_out(self, sequences: int) -> Iterator[Batch]:
        """Windows spread evenly over the text, one batch each; as many as there are, where that is fewer."""
        for number in self._fixed(sequences):
            yield self.batch(number[None])

    def batch(self, ids: NDArray[np.int64]) -> Batch:
        """The windows with these ids, on the model's device."""
        device = self.model.embedding.weight.device
        tokens_BT, targets_BT, document_BT = self.windows.batch(ids)
        documents = None if document_BT is None else document_BT.to(device)
        return Batch(tokens_BT.to(device), targets_BT.to(device), documents)

    def at_step(self, step: int) -> "Subject":
        """Another checkpoint of the run on the same text and device.

        Raises:
            ResumeError: no whole checkpoint of that step.
        """
        if step == self.step:
            return self
        model, _ = load_model(self.run.root, step)
        return replace(self, step=step, model=model.to(self.model.embedding.weight.device))

    def _fixed(self, sequences: int) -> NDArray[np.int64]:
        return self.windows.fixed(min(sequences, len(self.windows)))

    def probe(self, metrics: Sequence[str], sequences: int, batch_size: int) -> Record:
        """Measure the checkpoint; the scalars also have the `text/loss` (nats a token) and `text/perplexity`."""
        found = Probe(
            metrics,
            held_out=lambda count: [self.batch(self._fixed(count))],
            sequences=sequences,
            tokens=self.windows.context_length,
            batch_size=batch_size,
            separator=self.separator,
            token_text=lambda token: token_text(self.tokenizer, token),
        ).run(self.model)
        loss = mean_loss(self.model, self.held_out(sequences))
        return Record(found.arrays, {"text/loss": loss, "text/perplexity": perplexity(loss), **found.scalars})


def open_run(source: Path | str) -> Run:
    """The run folder of a source: itself, or for a model from elsewhere `runs/models/<name>`, imported there once.

    Raises:
        ConfigError: the source is neither, or the folder holds a model from another source.
        DataError: it cannot be fetched or read.
    """
    if (Path(source) / "config.yaml").is_file():
        return Run.open(source)
    folder = MODELS / Path(str(source).partition("@")[0]).name.removesuffix(".gguf")
    if not folder.exists():
        return import_model(source, folder)
    run = Run.open(folder)
    before = read_record(run.source_path, "sinkpretrain import")["source"]
    if before != str(source):
        raise ConfigError(f"{folder}: holds the model of {before}; import {source} to another folder and name that")
    return run


def steps_of(run: Run, which: str) -> list[int]:
    """The steps of `last`, of `all`, or of one number, in rising order.

    Raises:
        ConfigError: anything else.
        ResumeError: there is no whole checkpoint.
    """
    steps = checkpoints.steps(run.checkpoints)
    if which == "all" and steps:
        return steps
    if which.isdecimal():
        return [int(which)]
    if which not in ("all", "last"):
        raise ConfigError(f"--checkpoint: {which!r} is not a step, 'last' or 'all'; there are {steps or 'none'}")
    newest, problems = checkpoints.newest_valid(run.checkpoints)
    if newest is None:
        raise ResumeError(f"{run.root}: has no whole checkpoint {problems or ''}".rstrip())
    return [newest]


def step_of(run: Run, which: str, verb: str) -> int:
    """The step of `last` or of a number, for a verb that takes one.

    Raises:
        ConfigError: anything else.
        ResumeError: there is no whole checkpoint.
    """
    if which == "all":
        raise ConfigError(f"--checkpoint: {verb} takes one; give a step or 'last'")
    (step,) = steps_of(run, which)
    return step


def open_subject(run: Run, step: int, request: TextRequest, device: str = "cpu") -> Subject:
    """A checkpoint of a run in float32 on a device (`auto`: a GPU where there is one), and its text.

    Raises:
        ConfigError: a device that is not there, no text where the run has none of its own, or a window longer than the
            model's context.
        DataError: the text cannot be read or is too short.
        ResumeError: no whole checkpoint of that step.
    """
    config = run.config()
    model, tokenizer = load_model(run.root, step)
    model = model.to(device_of(device))
    context = config.model.context_length
    imported = not config.data.store
    tokens = request.tokens or (min(context, LONGEST) if imported else context)
    if not 2 <= tokens <= context:
        raise ConfigError(f"--tokens: {tokens} is out of range; allowed: 2 .. {context}, the model's context length")
    bos: Bos = request.bos or config.data.bos
    store = _store(run, config, request, tokenizer, bos)
    asked = replace(config, model=replace(config.model, context_length=tokens), data=replace(config.data, bos=bos))
    windows = Windows.of(store, "validation", asked)
    about = about_held_out(asked)
    if isinstance(store, TextTokens):
        about |= {"text": str(request.path), "fingerprint": store.fingerprint}
    return Subject(run=run, step=step, model=model, tokenizer=tokenizer, windows=windows, about=about)


@torch.no_grad()
def mean_loss(model: Llama, batches: Iterator[Batch]) -> float:
    """Nats a counted target, over batches; a window's logits exist at a time."""
    nats, targets = 0.0, 0
    for batch in batches:
        logits_BTV = model(batch.tokens_BT, batch.document_BT)
        nats += float(next_token_loss(logits_BTV, batch.targets_BT))
        targets += int((batch.targets_BT != IGNORED).sum())
    return nats / targets


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` is a CUDA device where there is one."""
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError("--device: cuda is not there; use cpu, and see sinkpretrain doctor")
    return torch.device("cuda" if has_gpu and name == "auto" else name.replace("auto", "cpu"))


def _store(run: Run, config: Config, request: TextRequest, tokenizer: Tokenizer, bos: Bos) -> TokenStore | TextTokens:
    """The run's token store, or the text that was named."""
    if request.path is None:
        if not config.data.store:
            raise ConfigError(f"{run.root}: an imported model has no held-out text; name some with --text FILE")
        return TokenStore.open(config.data.store)
    if config.data.store:
        return read_text(request.path, tokenizer, TokenStore.open(config.data.store).separator)
    source = read_record(run.source_path, "sinkpretrain import")
    separator = source["bos_id"] if bos != "none" and source["bos_id"] is not None else source["separator_id"]
    if separator is None:
        raise ConfigError(f"{run.root}: its tokenizer has neither a BOS nor a token between documents")
    return read_text(request.path, tokenizer, separator)
