"""Trained models back from where they lie."""

from pathlib import Path

from tokenizers import Tokenizer

from sinkpretrain import checkpoints
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import ResumeError
from sinkpretrain.model.llama import Llama
from sinkpretrain.runs import Run


def load_model(source: Path | str, step: int | None = None) -> tuple[Llama, Tokenizer]:
    """The model of a run folder, in float32 and eval mode on the CPU, and the tokenizer of its token store.

    Args:
        source: a run folder.
        step: which checkpoint; None: the newest whole one.

    Raises:
        ConfigError: not a run folder.
        DataError: the token store is gone.
        ResumeError: no checkpoint, none of that step, or one that was altered.
    """
    run = Run.open(source)
    config = run.config()
    if step is None:
        step, problems = checkpoints.newest_valid(run.checkpoints)
        if step is None:
            raise ResumeError(f"{run.root}: has no whole checkpoint {problems or ''}".rstrip())
    model = Llama(config.model)
    restore_weights(model, checkpoints.read(run.checkpoints, step))
    return model.eval(), TokenStore.open(config.data.store).tokenizer()


def restore_weights(model: Llama, checkpoint: checkpoints.Checkpoint) -> None:
    """Put a checkpoint's weights into a model; a tied head is stored under the embedding's name.

    Raises:
        ResumeError: the checkpoint is of a model with other parameters.
    """
    missing, unexpected = model.load_state_dict(checkpoint.model, strict=False)
    tied = {"head.weight"} if model.config.tie_embeddings else set()
    wrong = sorted({*missing, *unexpected} - tied)
    if wrong:
        raise ResumeError(f"the checkpoint of step {checkpoint.step} is of another model: {', '.join(wrong)}")
