"""A model from elsewhere as a run folder: one checkpoint at step 0, its tokenizer, and where it came from.

Shapes use B batch, T positions, V vocabulary.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

import torch

from sinkpretrain import checkpoints
from sinkpretrain.checkpoints import Checkpoint
from sinkpretrain.config import Config, DataConfig
from sinkpretrain.data.tokenizer import load_tokenizer, separator_id
from sinkpretrain.errors import DataError
from sinkpretrain.files import file_sha256, write_atomically, write_json
from sinkpretrain.model import hub_source
from sinkpretrain.model.hub import llama_of, sliding_window
from sinkpretrain.model.hub_source import HubModel, Source
from sinkpretrain.model.llama import Llama
from sinkpretrain.model.new_folder import new_folder, refuse_taken
from sinkpretrain.model.parity import logit_parity, parity_tokens, too_far
from sinkpretrain.runs import Run

PACKAGES = ("sinkpretrain", "torch", "transformers", "gguf")


def import_model(source: Path | str, out: Path | str, revision: str | None = None) -> Run:
    """A run folder with a model from the Hugging Face hub, a Hugging Face folder or a GGUF file.

    The folder appears when everything is in it and our logits are those of transformers; `source.json` says where the
    model came from, with the SHA-256 of the files that were read.

    Args:
        source: a hub id (`owner/name` or `owner/name@revision`), a folder, or a file.
        out: the folder to make.
        revision: branch, tag or commit of a hub id; the commit that it stands for is recorded.

    Raises:
        ConfigError: `out` is taken, the source is none of these, or the model is not a Llama without biases.
        DataError: the hub cannot be reached, a file cannot be read, or our logits are not those of transformers.
    """
    out = Path(out)
    refuse_taken(out)
    found = hub_source.resolve(source, revision)
    read = hub_source.read(found)
    model = llama_of(read.model, read.config, found.given)
    with torch.no_grad():
        parity = logit_parity(model, read.model(parity_tokens(model)).logits)
    if too_far(parity):
        raise DataError(
            f"{found.given}: our logits differ from those of transformers by {parity['max_abs_logit_error']:.2g}, more "
            f"than {parity['allowed']:.2g}; the model has something that ours does not, and nothing was written"
        )
    with new_folder(out) as folder:
        _write(Run(folder), out, found, read, model, {"revision": revision, "parity": parity})
    return Run.open(out)


def _write(run: Run, out: Path, source: Source, read: HubModel, model: Llama, more: dict[str, Any]) -> None:
    """Everything of the folder that will be `out`. Its budget is one window, since nothing is trained."""
    begins_with_bos = _begins_with_bos(read.tokenizer)
    config = Config(
        name=out.resolve().parent.name or "imported",
        variant=out.resolve().name,
        tokens=read.config.context_length,
        global_batch_size=1,
        micro_batch_size=1,
        model=read.config,
        data=DataConfig(bos="window" if begins_with_bos else "none"),
    )
    run.create(config)
    checkpoints.write(run.checkpoints, Checkpoint(step=0, model=model.state_dict()), keep=2)
    write_atomically(run.tokenizer_path, read.tokenizer_json.encode())
    window = sliding_window(read.model.config)
    record = {
        "source": source.given,
        "kind": source.kind,
        "commit": source.commit,
        "files_sha256": {path.name: file_sha256(path) for path in source.files()},
        "weights": read.weights,
        "sliding_window": None
        if window is None
        else f"{window} tokens: the context length, up to which it hides nothing",
        "bos_id": read.tokenizer.bos_token_id,
        "eos_id": read.tokenizer.eos_token_id,
        "begins_with_bos": begins_with_bos,
        "chat_template": read.tokenizer.chat_template,
        "separator_id": _separator(run, read.tokenizer),
        "versions": _versions(),
    }
    write_json(run.source_path, record | more)
    run.write_status("done", step=0, parameters=sum(parameter.numel() for parameter in model.parameters()))


def _begins_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a BOS before a text."""
    ids = tokenizer("text")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _separator(run: Run, tokenizer: Any) -> int | None:
    """The token between documents: a usual one, or else the end-of-sequence token."""
    try:
        return separator_id(load_tokenizer(run.tokenizer_path), None)
    except DataError:
        end: int | None = tokenizer.eos_token_id
        return end


def _versions() -> dict[str, str]:
    """Versions of what took part, as far as they are installed."""
    installed = {package.metadata["Name"].lower(): package.version for package in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}
