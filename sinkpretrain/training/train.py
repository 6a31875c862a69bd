"""`train`: one run from its configuration to a finished run folder, or on from its newest checkpoint."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from sinkpretrain import checkpoints
from sinkpretrain.checkpoints import Checkpoint
from sinkpretrain.config import Config
from sinkpretrain.data.datamodule import WindowsDataModule, naming_lost_workers
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import (
    ConfigError,
    DiskFullError,
    NonFiniteError,
    Preempted,
    ResumeError,
    SinkpretrainError,
)
from sinkpretrain.files import write_json
from sinkpretrain.model.flops import count_parameters, flops_per_token
from sinkpretrain.model.initialisation import fingerprints
from sinkpretrain.model.load import refuse_other_run
from sinkpretrain.runs import DATA_MANIFEST, ENVIRONMENT, Run, yaml_of
from sinkpretrain.training import environment
from sinkpretrain.training.callbacks.checkpointing import Checkpointing
from sinkpretrain.training.callbacks.presence import Presence
from sinkpretrain.training.callbacks.probes import Probes
from sinkpretrain.training.callbacks.progress import ProgressDisplay
from sinkpretrain.training.callbacks.run_record import RunRecord
from sinkpretrain.training.callbacks.stop_signals import StopSignals
from sinkpretrain.training.callbacks.throughput import Throughput, peak_flops
from sinkpretrain.training.callbacks.validation import Validation
from sinkpretrain.training.callbacks.variant_check import VariantCheck
from sinkpretrain.training.callbacks.weights_and_biases import WeightsAndBiases
from sinkpretrain.training.joining import Group
from sinkpretrain.training.module import PretrainModule
from sinkpretrain.training.placement import Place, from_environment, placed
from sinkpretrain.training.sharding import weights
from sinkpretrain.training.supervisor import tell
from sinkpretrain.training.trainer import make_trainer, on_gpu, quiet, refuse_impossible

logger = logging.getLogger(__name__)


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
        SinkpretrainError: another rank of the run failed, is gone or does not answer.
    """
    run = Run(out)
    place = from_environment() or Place()
    with StopSignals(run, place) as signals:
        config, store = _checked(run, config)
        group = Group(config)
        if place.rank > 0:  # rank 0 keeps the folder and speaks
            logging.getLogger("sinkpretrain").setLevel(logging.ERROR)
            group.follow()
            with group.working():
                _fit(run, config, store, _restore(run)[0], group, signals)
            return run
        with group.leading() as begin, run.lock():
            signals.ends_at_once = True  # the others are told
            store.verify()
            if not _open(run, config, store, resume):
                logger.info("%s: is done already", run.root)
                return run
            tell(run=run.root.resolve())
            with _recording_the_end(run):
                restored, problems = _restore(run)
                _set_damaged_aside(run, restored, problems)
                run.cut_metrics(restored.step if restored else -1)
                signals.ends_at_once = group.place.world_size == 1
                begin()
                with group.working(on_lost=lambda reason: run.write_status("failed", error=reason)):
                    _fit(run, config, store, restored, group, signals)
    return run


def _checked(run: Run, config: Config) -> tuple[Config, TokenStore]:
    """The configuration for these processes and the token store, if all fits; on one node rank 0 alone says why not."""
    try:
        config = placed(config)
        _refuse_imported(run)
        refuse_impossible(config)
        config.model.attention.check_options()
        store = TokenStore.open(config.data.store)
        return with_vocabulary(config, store), store
    except SinkpretrainError as error:
        place = from_environment() or Place()
        if place.rank > 0 and place.nodes == 1:
            raise SystemExit(error.exit_code) from error
        raise


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


def sized(config: Config) -> Config:
    """The configuration with a vocabulary size, for which its token store is opened only where it names none."""
    return config if config.model.vocab_size else with_vocabulary(config, TokenStore.open(config.data.store))


def _open(run: Run, config: Config, store: TokenStore, resume: bool) -> bool:
    """Make the run folder, or check that it holds this very run; False when that is done already."""
    data = {**store.manifest, "fingerprint": store.fingerprint}
    data["token_hashes"] = WindowsDataModule(store, config).token_hashes()
    if resume and run.config_path.exists():
        run.refuse_other_config(config)
        run.refuse_other_data(data)
        if run.status().get("state") == "done":
            return False
        run.note_resumption(environment.describe())
        return True
    config_sha256 = hashlib.sha256(yaml_of(config)).hexdigest()
    began = {**environment.describe(), "config_sha256": config_sha256}
    run.create(config, {ENVIRONMENT: began, DATA_MANIFEST: data})
    return True


def _set_damaged_aside(run: Run, restored: Checkpoint | None, problems: list[str]) -> None:
    """Rename the checkpoints that are newer than the newest whole one, and say so.

    Raises:
        ResumeError: there are checkpoints, and none is whole.
    """
    if problems and restored is None:
        raise ResumeError(
            f"{run.root}: has no whole checkpoint to go on from ({'; '.join(problems)}); bring one back, or start "
            "again with another --out"
        )
    step = -1 if restored is None else restored.step
    for damaged in (later for later in checkpoints.steps(run.checkpoints) if later > step):
        checkpoints.set_aside(checkpoints.path_of(run.checkpoints, damaged))
    for problem in problems:
        logger.warning(
            "%s; using step %d. It was renamed to %s..., delete it at will", problem, step, checkpoints.DAMAGED
        )


def _restore(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, None when there is none, and what is wrong with newer ones.

    Raises:
        ResumeError: it is another run's.
    """
    restored, problems = checkpoints.read_newest(run.checkpoints)
    if restored is not None:
        refuse_other_run(run, restored)
    return restored, problems


def _fit(
    run: Run, config: Config, store: TokenStore, restored: Checkpoint | None, group: Group, signals: StopSignals
) -> None:
    """Build everything and train to the last step."""
    module = PretrainModule(config)
    datamodule = WindowsDataModule(store, config, first_step=restored.step if restored else 0)
    if restored is not None:
        module.resume(restored)
    elif group.place.rank == 0:
        write_json(run.initial_weights_path, fingerprints(weights(module.model)))
    if config.compile:
        module.model.compile()
    with quiet(), naming_lost_workers():
        callbacks = [Presence(group.mark), *_callbacks(run, config, restored, signals)]
        trainer = make_trainer(config, callbacks, steps=config.steps - module.step)
        trainer.fit(module, datamodule=datamodule)
    if module.step < config.steps:
        raise SinkpretrainError(f"{run.root}: ended at step {module.step} of {config.steps}")


def _callbacks(run: Run, config: Config, restored: Checkpoint | None, signals: StopSignals) -> list[Callback]:
    """In the order they act: measure, record, mirror, save."""
    device = torch.device("cuda" if on_gpu(config) else "cpu")
    peak, source = peak_flops(device)
    facts: dict[str, Any] = {
        "parameters": count_parameters(config.model),
        "flops_per_token": flops_per_token(config.model),
        "peak_flops": peak,
        "peak_source": source,
    }
    record = RunRecord(run, facts, restored.state["seconds"] if restored else 0.0)
    measuring = [Throughput(peak, facts["flops_per_token"]), Validation(), Probes(run)]
    callbacks: list[Callback] = [signals, VariantCheck(), *measuring, record]
    if config.wandb.mode != "disabled":
        callbacks.append(WeightsAndBiases(run, config))
    return [*callbacks, ProgressDisplay(run.name), Checkpointing(run, record, signals)]


def _refuse_imported(run: Run) -> None:
    """Raise where the folder holds a model from elsewhere."""
    if run.source_path.exists():
        raise ResumeError(
            f"{run.root}: holds an imported model, which has no data and no optimizer state to go on from; give "
            "another --out"
        )


@contextmanager
def _recording_the_end(run: Run) -> Iterator[None]:
    """Write how the run ended into status.json, as far as there is room."""
    try:
        yield
    except (Preempted, KeyboardInterrupt):
        run.write_status("preempted")
        raise
    except BaseException as error:
        more = {"windows": error.windows} if isinstance(error, NonFiniteError) else {}
        with suppress(DiskFullError):
            run.write_status("failed", error=f"{type(error).__name__}: {error}", **more)
        raise
    run.write_status("done")
