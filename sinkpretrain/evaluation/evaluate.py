"""A model on tasks under conditions: one record a set of tasks, item by item, to which conditions are added."""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import CachingLM
from lm_eval.evaluator import evaluate as harness_evaluate

from sinkpretrain import checkpoints
from sinkpretrain.calibration.act import Act, applied
from sinkpretrain.errors import ConfigError, DataError, SinkpretrainError, check
from sinkpretrain.evaluation.conditions import Condition
from sinkpretrain.evaluation.encoding import BosChoice, encoder_of
from sinkpretrain.evaluation.harness import SinkpretrainLM
from sinkpretrain.evaluation.items import Item, items, receiving_span
from sinkpretrain.evaluation.outcomes import outcomes_of
from sinkpretrain.evaluation.tasks import FEWSHOT_SEED, load_tasks, text_of
from sinkpretrain.files import file_sha256, write_json
from sinkpretrain.model.load import load_model
from sinkpretrain.records import HELD_OUT, VANILLA, changes, read_record
from sinkpretrain.runs import Run
from sinkpretrain.shapes import plain

logger = logging.getLogger(__name__)

SAW_SINK, MOVED = "saw_sink", "moved"  # in a cache file beside the answers: what ACT did while those were computed

Items = dict[str, list[Item] | None]  # by task; None where items are not a prompt with answers


def evaluate(
    run: Run,
    step: int,
    tasks: Sequence[str],
    conditions: Sequence[Condition],
    *,
    fewshot: int = 0,
    limit: int | None = None,
    data_dir: Path | None = None,
    text: Path | None = None,
    bos: BosChoice = "auto",
    device: torch.device | str = "cpu",
    batch_tokens: int = 4096,
    seed: int = 0,
    cache: Path | None = None,
    name: str | None = None,
    calibrated_on: Collection[str] = (),
) -> dict[str, Any]:
    """Evaluate a checkpoint under conditions and add them to `RUN/eval/<task set>.json`, each as soon as it is done.

    Conditions that the record has already are replaced, others stay. A condition with ACT on no heads is recorded with
    the outcomes of `vanilla`, which it has by construction.

    Args:
        run: trained or imported.
        step: of the checkpoint.
        tasks: names, of this package, of its sets or of lm-evaluation-harness.
        conditions: `vanilla` among them, or in the record.
        fewshot: examples in front of each prompt.
        limit: items a task, the first ones; None: all.
        data_dir: local JSON lines in place of the hub.
        text: what embedded tasks are made of; None: the run's own held-out text.
        bos: see `encoder_of`.
        device: where to compute.
        batch_tokens: tokens of a batch; results do not depend on it.
        seed: of the items of embedded tasks.
        cache: begins the name of files that keep answers, so that an evaluation that was cut short goes on.
        name: of the record; None: the names of the tasks.
        calibrated_on: hashes of the items that the heads were chosen on.

    Raises:
        ConfigError: an unknown task, a record of other items or of another model, or conditions that the tasks cannot
            meet.
        DataError: data of a task is missing, or an item was calibrated on.
        ResumeError: no such checkpoint.
        SinkpretrainError: ACT was to be applied, and no pass met it.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every setting that is given to it
    model, tokenizer = load_model(run.root, step)
    embedded = text_of(run, tasks, text, seed=seed)
    loaded = load_tasks(tasks, data_dir=data_dir, fewshot=fewshot, embedded=embedded)
    by_task = {name: items(task, "test", limit) if _asks_prompts(task) else None for name, task in loaded.items()}
    _refuse_calibrated(by_task, calibrated_on)
    about = {
        "model": model_identity(run, step),
        "tasks": list(loaded),
        "items": {task: fingerprint(found) for task, found in by_task.items() if found is not None},
        "fewshot": fewshot,
        "limit": limit,
        "data": str(data_dir or "hub"),
        "text": None if embedded is None else str(text or HELD_OUT),
        "bos": bos,
    }
    path = record_path(run, tasks, name)
    record = _opened(path, about)
    receivers = [_receivers(condition, by_task) for condition in conditions]
    lm = SinkpretrainLM(model.to(device), encoder_of(run, tokenizer, bos), batch_tokens=batch_tokens)
    for condition, received in zip(conditions, receivers, strict=True):
        lm.label, lm.receivers = condition.name, received
        file = _cache_file(cache, about, condition)
        record["conditions"][condition.name] = (
            {"act": condition.record([]), "tasks": _of_vanilla(record, condition)}
            if condition.changes_nothing and condition.name != VANILLA
            else _entry(lm, loaded, by_task, condition, limit, file)
        )
        write_json(path, record)
    return record


def record_path(run: Run, tasks: Sequence[str], name: str | None = None) -> Path:
    """Where the record of an evaluation on these tasks is: under its name, or those of the tasks as they were given.

    Raises:
        ConfigError: a name that leads out of the folder of records.
    """
    chosen = name or "+".join(tasks).replace(":", "-")
    check(plain(chosen), "--name", chosen, str(plain.__doc__))
    return run.evaluation_path(chosen)


def fingerprint(some: Sequence[Item]) -> str:
    """Changes with the items and their order."""
    return hashlib.sha256("\n".join(item.hash for item in some).encode()).hexdigest()


def model_identity(run: Run, step: int) -> dict[str, Any]:
    """Which model a record is of: the run's name, the step, and the SHA-256 of the weights."""
    weights = checkpoints.path_of(run.checkpoints, step) / "model.safetensors"
    return {"run": run.name, "step": step, "sha256": file_sha256(weights)}


def _entry(
    lm: SinkpretrainLM,
    tasks: dict[str, Any],
    by_task: Items,
    condition: Condition,
    limit: int | None,
    cache: Path | None,
) -> dict[str, Any]:
    """What the record says of one condition."""
    for task in tasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    batches = 0
    with contextlib.ExitStack() as stack:
        act, kept = None, None
        answering: Any = lm
        if cache is not None:
            answering = CachingLM(lm, str(cache))
            kept = answering.dbdict
            stack.callback(kept.close)
        if not condition.changes_nothing:
            act = stack.enter_context(_act(lm, condition, kept))

        def note() -> None:
            nonlocal batches
            batches += 1
            if act is not None and kept is not None:
                kept[SAW_SINK], kept[MOVED] = sorted(act.saw_sink), (act.moved_mass, act.rows)

        lm.on_batch = note
        loaded = {"tasks": tasks, "groups": {}}
        found = harness_evaluate(lm=answering, task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    outcomes = {name: outcomes_of(task, found["samples"][name], by_task[name]) for name, task in tasks.items()}
    record = condition.record(sorted(act.saw_sink) if act else [])
    if act is not None:
        assert record is not None
        record["moved_mass"] = act.moved_mass / max(act.rows, 1)  # of a row of a head that met a sink in the sequence
        if batches:
            _refuse_unreached(act, condition)
    return {"act": record, "tasks": outcomes}


@contextlib.contextmanager
def _act(lm: SinkpretrainLM, condition: Condition, kept: Mapping[str, Any] | None) -> Iterator[Act]:
    """ACT on the model, which is told the receiving positions; what it did for answers that are kept counts too."""
    assert condition.settings is not None
    with applied(lm.model, condition.heads, condition.settings) as act:
        if kept is not None:
            act.saw_sink |= set(kept.get(SAW_SINK, ()))
            act.moved_mass, act.rows = kept.get(MOVED, (0.0, 0))
        lm.receive = functools.partial(setattr, act, "receivers_BT")
        try:
            yield act
        finally:
            lm.receive = None


def _refuse_unreached(act: Act, condition: Condition) -> None:
    """Raise where passes were made and none met ACT; warn where it met nothing to calibrate."""
    if not act.reached:
        raise SinkpretrainError(
            f"{condition.name}: the passes over the items reached no calibrated layer, so their answers would be those "
            f"of {VANILLA}; nothing was recorded"
        )
    if why := act.why_nothing():
        logger.warning("%s is a no-op: %s", condition.name, why)


def _asks_prompts(task: Any) -> bool:
    """Whether its items are one prompt with answers; otherwise they have no place in a head search."""
    return task.OUTPUT_TYPE != "loglikelihood_rolling" and not task.multiple_input


def _receivers(condition: Condition, by_task: Items) -> dict[str, tuple[int, int]] | None:
    """For each prompt, the characters that receive what ACT takes; None where all tokens do."""
    if condition.settings is None or not condition.settings.needs_receivers:
        return None
    part = condition.settings.redistribution
    spans: dict[str, tuple[int, int]] = {}
    for task, some in by_task.items():
        if some is None:
            raise ConfigError(f"{task}: its items are not a prompt with answers, so '{part}' has no meaning there")
        spans |= {item.prompt: receiving_span(item, part) for item in some}
    return spans


def _opened(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The record that is there, or an empty one."""
    if not path.exists():
        return {"about": about, "conditions": {}}
    record = read_record(path, "sinkpretrain eval")
    if listed := changes(record["about"], about):
        raise ConfigError(
            f"{path}: is of another evaluation ({listed}); give --name NAME for a record of its own, or delete that "
            "file"
        )
    return record


def _of_vanilla(record: dict[str, Any], condition: Condition) -> dict[str, Any]:
    if VANILLA not in record["conditions"]:
        raise ConfigError(f"{condition.name}: has no heads and so vanilla's outcomes; evaluate `vanilla` before it")
    outcomes: dict[str, Any] = record["conditions"][VANILLA]["tasks"]
    return outcomes


def _refuse_calibrated(by_task: Items, calibrated_on: Collection[str]) -> None:
    """Raise where heads would be judged by the items that chose them."""
    chosen_on = set(calibrated_on)
    shared = [item for some in by_task.values() for item in some or () if item.hash in chosen_on]
    if shared:
        raise DataError(
            f"{len(shared)} test items are among the items that the heads were chosen on, such as {shared[0].prompt!r} "
            f"of {shared[0].task}; calibrate on other items"
        )


def _cache_file(cache: Path | None, about: dict[str, Any], condition: Condition) -> Path | None:
    """One file for each model, way of encoding and condition: the harness's keys name the request alone."""
    if cache is None:
        return None
    key = json.dumps([about["model"]["sha256"], about["bos"], condition.record([])])
    return cache.with_name(f"{cache.name}-{condition.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.db")
