"""The verb `calibrate`: a head search on a checkpoint and tasks, from items to `act/heads.json`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from sinkpretrain.calibration import Settings
from sinkpretrain.errors import DataError, check
from sinkpretrain.evaluation.encoding import BosChoice, Encoder, encoder_of
from sinkpretrain.evaluation.evaluate import fingerprint, model_identity
from sinkpretrain.evaluation.head_search import Outcomes, Search
from sinkpretrain.evaluation.heads import HeadList, HeadsFile, choose, effects, vanilla_means
from sinkpretrain.evaluation.items import Item, disjoint, items, receiving_span
from sinkpretrain.evaluation.maps import write_maps
from sinkpretrain.evaluation.scoring import Question
from sinkpretrain.evaluation.tasks import load_tasks, text_of
from sinkpretrain.files import write_arrays, write_json
from sinkpretrain.model.load import load_model
from sinkpretrain.records import read_arrays
from sinkpretrain.runs import Run

USUAL_ITEMS = 100


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """What heads are searched on: so many `items` of each task (the paper's M), drawn by `seed`.

    None: `USUAL_ITEMS`, or as many as there are.
    """

    tasks: Sequence[str]
    items: int | None = None
    fewshot: int = 0
    data_dir: Path | None = None
    text: Path | None = None
    bos: BosChoice = "auto"
    device: torch.device | str = "cpu"
    batch_tokens: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a search on nothing."""
        check(self.items is None or self.items >= 1, "items", self.items, ">= 1")


def search_heads(
    run: Run,
    step: int,
    settings: Settings,
    request: CalibrationRequest,
    progress: Callable[[int, int], None] = lambda done, items: None,
) -> HeadsFile:
    """Search the heads and write `act/heads.json`, `act/outcomes.npz` and `act/maps.npz`.

    Args:
        run: trained or imported.
        step: of the checkpoint.
        settings: ACT's, in the search and afterwards.
        request: the items.
        progress: told how many items are done, and of how many.

    Raises:
        ConfigError: an unknown task, or one that the search cannot use.
        DataError: missing data, or items that are test items too.
        ResumeError: no such checkpoint.
    """
    layers = settings.layers(run.config().model.n_layers)
    by_task = calibration_items(run, request)
    every = [item for some in by_task.values() for item in some]
    model, tokenizer = load_model(run.root, step)
    model = model.to(request.device)
    encoder = encoder_of(run, tokenizer, request.bos)
    identity = model_identity(run, step)
    questions = [question_of(item, encoder, settings) for item in every]
    outcomes = Search(
        model=model,
        settings=settings,
        questions=questions,
        golds=[item.gold for item in every],
        folder=run.heads_path.parent / "search",
        fingerprint=identity["sha256"],
        batch_tokens=request.batch_tokens,
        progress=lambda done: progress(done, len(every)),
    ).run()
    rows = effects(outcomes)
    found = HeadsFile(
        model=identity,
        settings=settings,
        tasks={
            task: {"items": len(some), "fingerprint": fingerprint(some), "hashes": [item.hash for item in some]}
            for task, some in by_task.items()
        },
        items=len(every),
        layers=[layers.start, layers.stop - 1],
        vanilla=vanilla_means(outcomes),
        heads=rows,
        saw_sink=sum(row["sink_share"] > 0 for row in rows),
        rules=choose(rows),
    )
    write_outcomes(run, outcomes, [len(some) for some in by_task.values()])
    write_json(run.heads_path, found.to_mapping())
    heads = found.rules["paper"] or found.all_with_sinks
    write_maps(run.act_maps_path, model, encoder, questions[0].prompt, heads, settings)
    return found


def calibration_items(run: Run, request: CalibrationRequest) -> dict[str, list[Item]]:
    """The items of each task, none of which is a test item of any of them."""
    embedded = text_of(run, request.tasks, request.text)
    loaded = load_tasks(request.tasks, data_dir=request.data_dir, fewshot=request.fewshot, embedded=embedded)
    limit = request.items or USUAL_ITEMS
    found = {name: items(task, "calibration", limit, request.seed) for name, task in loaded.items()}
    for name, some in found.items():
        if len(some) < (request.items or 1):
            raise DataError(
                f"{name}: has {len(some)} calibration items, --items asks for {request.items}; ask for fewer"
            )
    tested = [item for task in loaded.values() for item in items(task, "test", None)]
    disjoint([item for some in found.values() for item in some], tested)
    return found


def question_of(item: Item, encoder: Encoder, settings: Settings) -> Question:
    """An item as tokens, with the positions that receive attention where the settings need them."""
    pairs = [encoder.pair(item.prompt, answer) for answer in item.answers]
    receivers = None
    if settings.needs_receivers:
        receivers = encoder.covered(item.prompt, receiving_span(item, settings.redistribution))
    return Question(prompt=pairs[0][0], answers=[answer for _, answer in pairs], receivers=receivers)


def write_outcomes(run: Run, outcomes: Outcomes, counts: Sequence[int]) -> None:
    """Keep every item's outcomes, for heads that fewer items would choose."""
    arrays = {field.name: np.asarray(getattr(outcomes, field.name)) for field in fields(outcomes)}
    arrays["task_I"] = np.repeat(np.arange(len(counts)), counts)
    write_arrays(run.heads_path.with_name("outcomes.npz"), arrays)


def chosen_by(run: Run, rule: str, items_each: int | None) -> HeadList:
    """The heads that a rule chooses by the first so many items of each task alone; None: by all.

    Raises:
        DataError: no head search there.
    """
    command = f"sinkpretrain calibrate {run.root} --tasks TASK ..."
    given = read_arrays(run.heads_path.with_name("outcomes.npz"), command)
    task_I, heads = given.pop("task_I"), [(int(layer), int(head)) for layer, head in given.pop("heads")]
    rank_I = np.concatenate([np.arange(count) for count in np.bincount(task_I)])
    kept_I = rank_I < (items_each or len(rank_I))
    outcomes = Outcomes(heads=heads, **{name: array[..., kept_I] for name, array in given.items()})
    return choose(effects(outcomes))[rule]
