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


def refuse_other_run(run: Run, checkpoint: checkpoints.Checkpoint) -> None:
    """Raise where another run wrote this checkpoint.

    Raises:
        ResumeError: says when either began.
    """
    writer, began = checkpoint.state.get("run"), run.created()
    if writer and began and writer != began:
        path = checkpoints.path_of(run.checkpoints, checkpoint.step)
        raise ResumeError(
            f"{path}: is of a run that began at {writer}, this one began at {began}; take it out of this folder"
        )


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
        found, problems = checkpoints.read_newest(run.checkpoints)
        if found is None:
            raise ResumeError(f"{run.root}: has no whole checkpoint {problems or ''}".rstrip())
    else:
        found = checkpoints.read(run.checkpoints, step)
    refuse_other_run(run, found)
    with torch.device("meta"):
        model = Llama(config.model)
    restore_weights(model, found, assign=True)
    if run.tokenizer_path.exists():
        return model.eval(), load_tokenizer(run.tokenizer_path)
    return model.eval(), TokenStore.open(config.data.store).tokenizer()
