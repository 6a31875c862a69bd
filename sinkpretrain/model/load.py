"""Trained models back from where they lie, and models from elsewhere."""

from pathlib import Path

import torch
from tokenizers import Tokenizer

from sinkpretrain import checkpoints
from sinkpretrain.data.store import TokenStore
from sinkpretrain.data.tokenizer import load_tokenizer, text_only
from sinkpretrain.errors import ConfigError, ResumeError
from sinkpretrain.model import hub_source
from sinkpretrain.model.hub import llama_of
from sinkpretrain.model.llama import Llama
from sinkpretrain.runs import Run


def load_model(source: Path | str, step: int | None = None) -> tuple[Llama, Tokenizer]:
    """A model in float32 and eval mode on the CPU, and its tokenizer, which adds no special tokens.

    Args:
        source: a run folder, trained or imported; a Hugging Face folder; a GGUF file, whose weights are dequantised;
            or a Hugging Face hub id, `owner/name` or `owner/name@revision`.
        step: which checkpoint of a run; None: the newest whole one.

    Raises:
        ConfigError: none of these, or a model that is not a Llama.
        DataError: the token store of a run is gone, the hub cannot be reached, or a file cannot be read.
        ResumeError: no checkpoint, none of that step, or one that was altered.
    """
    if (Path(source) / "config.yaml").is_file():
        return _of_run(Run.open(source), step)
    if step is not None:
        raise ConfigError(f"step: {step} has a meaning for a run folder only, and {source} is none")
    found = hub_source.resolve(source)
    read = hub_source.read(found)
    return llama_of(read.model, read.config, found.given), text_only(Tokenizer.from_str(read.tokenizer_json))


def read_checkpoint(run: Run, step: int) -> checkpoints.Checkpoint:
    """A checkpoint of a run, verified.

    Raises:
        ResumeError: it is missing or altered, or another run wrote it.
    """
    found = checkpoints.read(run.checkpoints, step)
    writer, began = found.state.get("run"), run.created()
    if writer and began and writer != began:
        raise ResumeError(
            f"{checkpoints.path_of(run.checkpoints, step)}: is of a run that began at {writer}, this one began at "
            f"{began}; take it out of this folder"
        )
    return found


def restore_weights(model: Llama, checkpoint: checkpoints.Checkpoint, *, assign: bool = False) -> None:
    """Put a checkpoint's weights into a model; a tied head is stored under the embedding's name.

    Args:
        model: changed in place.
        checkpoint: whose weights to take.
        assign: take the checkpoint's tensors themselves, as a model on the meta device needs.

    Raises:
        ResumeError: the checkpoint is of a model with other parameters.
    """
    missing, unexpected = model.load_state_dict(checkpoint.model, strict=False, assign=assign)
    if model.config.tie_embeddings:
        model.head.weight = model.embedding.weight
    tied = {"head.weight"} if model.config.tie_embeddings else set()
    wrong = sorted({*missing, *unexpected} - tied)
    if wrong:
        raise ResumeError(f"the checkpoint of step {checkpoint.step} is of another model: {', '.join(wrong)}")


def _of_run(run: Run, step: int | None) -> tuple[Llama, Tokenizer]:
    config = run.config()
    if step is None:
        step, problems = checkpoints.newest_valid(run.checkpoints)
        if step is None:
            raise ResumeError(f"{run.root}: has no whole checkpoint {problems or ''}".rstrip())
    with torch.device("meta"):
        model = Llama(config.model)
    restore_weights(model, read_checkpoint(run, step), assign=True)
    if run.tokenizer_path.exists():
        return model.eval(), load_tokenizer(run.tokenizer_path)
    return model.eval(), TokenStore.open(config.data.store).tokenizer()
