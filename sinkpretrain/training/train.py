"""`train`: one run from its configuration to a finished run folder, or on from its newest checkpoint."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from sinkpretrain import checkpoints
from sinkpretrain.config import Config
from sinkpretrain.data.datamodule import WindowsDataModule
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import ConfigError, Preempted, ResumeError, SinkpretrainError
from sinkpretrain.files import write_json
from sinkpretrain.model.flops import count_parameters, flops_per_token
from sinkpretrain.model.load import restore_weights
from sinkpretrain.runs import Run
from sinkpretrain.training import environment
from sinkpretrain.training.callbacks.checkpointing import Checkpointing
from sinkpretrain.training.callbacks.probes import Probes
from sinkpretrain.training.callbacks.progress import ProgressDisplay
from sinkpretrain.training.callbacks.run_record import RunRecord
from sinkpretrain.training.callbacks.throughput import Throughput, peak_flops
from sinkpretrain.training.callbacks.validation import Validation
from sinkpretrain.training.callbacks.weights_and_biases import WeightsAndBiases
from sinkpretrain.training.module import PretrainModule

logger = logging.getLogger(__name__)

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def train(config: Config, out: Path | str, *, resume: bool = False) -> Run:
    """Train one model in the folder `out`.

    With `resume` the folder may hold the same run already: a finished one is left alone, another goes on from its
    newest whole checkpoint, or from the start if there is none.

    Raises:
        ConfigError: the configuration does not fit the data or the device.
        DataError: the token store is missing, altered or too small.
        ResumeError: the folder holds a run and `resume` is not set, another configuration or other data, or is in use.
        NonFiniteError: the loss became NaN or infinite.
        Preempted: a signal stopped the run, which was saved.
    """
    run = Run(out)
    _refuse_imported(run)
    _refuse_unavailable_device(config)
    store = TokenStore.open(config.data.store)
    config = with_vocabulary(config, store)
    if not is_rank_zero():  # the other processes of a multi-device run: rank 0 keeps the folder
        _fit(run, config, store, _restore(run))
        return run
    store.verify()
    with run.lock():
        if not _open(run, config, store, resume):
            logger.info("%s: is done already", run.root)
            return run
        with _recording_the_end(run):
            restored = _restore(run)
            run.cut_metrics(restored.step if restored else -1)
            _fit(run, config, store, restored)
    return run


def is_rank_zero() -> bool:
    """Whether this process is the first of its run, as torchrun and Lightning say in the environment."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def with_vocabulary(config: Config, store: TokenStore) -> Config:
    """The configuration with the store's vocabulary size filled in.

    Raises:
        ConfigError: it names a vocabulary smaller than the store's.
    """
    given = config.model.vocab_size
    if given is not None and given < store.vocab_size:
        raise ConfigError(
            f"model.vocab_size: {given} is smaller than the vocabulary of {config.data.store} ({store.vocab_size}); "
            "leave it null to take the store's"
        )
    return replace(config, model=replace(config.model, vocab_size=given or store.vocab_size))


def _open(run: Run, config: Config, store: TokenStore, resume: bool) -> bool:
    """Make the run folder, or check that it holds this very run; False when that is done already."""
    if resume and run.config_path.exists():
        run.refuse_other_config(config)
        run.refuse_other_data(store.fingerprint)
        return run.status().get("state") != "done"
    run.create(config)
    write_json(run.root / "environment.json", environment.describe())
    write_json(run.data_manifest_path, {**store.manifest, "fingerprint": store.fingerprint})
    return True


def _restore(run: Run) -> checkpoints.Checkpoint | None:
    """The newest whole checkpoint, None when there is none; says which newer ones were passed over."""
    step, problems = checkpoints.newest_valid(run.checkpoints)
    for problem in problems:
        logger.warning("%s; using %s", problem, "none" if step is None else f"step {step}")
    return None if step is None else checkpoints.read(run.checkpoints, step)


def _fit(run: Run, config: Config, store: TokenStore, restored: checkpoints.Checkpoint | None) -> None:
    """Build everything and train to the last step."""
    module = PretrainModule(config)
    datamodule = WindowsDataModule(store, config, first_step=restored.step if restored else 0)
    if restored is not None:
        restore_weights(module.model, restored)
        module.resumed_optimizer, module.step = restored.optimizer, restored.step
    if config.compile:
        module.model.compile()
    with _quiet():
        trainer = _trainer(config, _callbacks(run, config, restored), steps=config.steps - module.step)
        trainer.fit(module, datamodule=datamodule)
    if module.step < config.steps:
        raise SinkpretrainError(f"{run.root}: ended at step {module.step} of {config.steps}")


def _callbacks(run: Run, config: Config, restored: checkpoints.Checkpoint | None) -> list[Callback]:
    """In the order they act: measure, record, mirror, save."""
    device = torch.device("cuda" if _on_gpu(config) else "cpu")
    peak, source = peak_flops(device)
    facts: dict[str, Any] = {
        "parameters": count_parameters(config.model),
        "flops_per_token": flops_per_token(config.model),
        "peak_flops": peak,
        "peak_source": source,
    }
    record = RunRecord(run, facts, restored.state["seconds"] if restored else 0.0)
    callbacks: list[Callback] = [Throughput(peak, facts["flops_per_token"]), Validation(), Probes(run), record]
    if config.wandb.mode != "disabled":
        callbacks.append(WeightsAndBiases(run, config))
    return [*callbacks, ProgressDisplay(run.name), Checkpointing(run, record)]


def _trainer(config: Config, callbacks: list[Callback], steps: int) -> L.Trainer:
    """One endless epoch of `steps` updates; logging, validation and checkpoints are the callbacks' affair."""
    return L.Trainer(
        max_steps=steps,
        max_epochs=1,
        accumulate_grad_batches=config.accumulation,
        accelerator="gpu" if _on_gpu(config) else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if config.devices * config.nodes > 1 else "auto",
        precision=PRECISIONS[config.precision],
        callbacks=callbacks,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )


def _on_gpu(config: Config) -> bool:
    return config.accelerator == "gpu" or (config.accelerator == "auto" and torch.cuda.is_available())


def _refuse_imported(run: Run) -> None:
    """Raise where the folder holds a model from elsewhere."""
    if run.source_path.exists():
        raise ResumeError(
            f"{run.root}: holds an imported model, which has no data and no optimizer state to go on from; give "
            "another --out"
        )


def _refuse_unavailable_device(config: Config) -> None:
    """Raise where the configuration asks for a device or a precision that is not here."""
    if config.accelerator == "gpu" and torch.cuda.device_count() < config.devices:
        raise ConfigError(f"devices: {config.devices} GPUs were asked for, {torch.cuda.device_count()} are here")
    if config.precision == "fp16" and not _on_gpu(config):
        raise ConfigError("precision: fp16 needs a GPU (its gradient scaler does); use bf16 or fp32 on a CPU")


@contextmanager
def _recording_the_end(run: Run) -> Iterator[None]:
    """Write how the run ended into status.json."""
    try:
        yield
    except Preempted:
        run.write_status("preempted")
        raise
    except BaseException as error:
        run.write_status("failed", error=f"{type(error).__name__}: {error}")
        raise
    run.write_status("done")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice out of the user's terminal; its warnings about our data loader do not apply."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
