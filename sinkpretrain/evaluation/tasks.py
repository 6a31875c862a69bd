"""Tasks by name: the paper's datasets with its prompts, embedded tasks, and whatever lm-evaluation-harness has.

A task is a file of lm-evaluation-harness in `task_files/`. There it is called `act_<name>`, so it never stands in for a
task of lm-evaluation-harness; users leave `act_` out. A name of ours wins: `arc_easy` is the paper's, `stock:arc_easy`
lm-evaluation-harness's own, and names that only the latter has need no `stock:`. The names of `TASK_SETS` stand for all
their tasks.
"""

import difflib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.embedded import EmbeddedText, embedded_text
from sinkpretrain.evaluation.own_task import OwnTask
from sinkpretrain.runs import Run

FILES = Path(__file__).parent / "task_files"
PREFIX, STOCK = "act_", "stock:"
FEWSHOT_SEED = DEFAULT_OTHER_SEED  # lm-evaluation-harness's
SPLITS = ("calibration", "test")

_CHOICE = ["hellaswag", "arc_easy", "piqa", "openbookqa", "arc_challenge", "copa", "commonsense_qa", "mmlu"]
_CLASSES = ["sst2", "sst5", "mr", "ag_news", "trec", "cb", "boolq"]
_SQUAD = ["squad_v1", "squad_v2"]
TASK_SETS: dict[str, list[str]] = {
    "multiple_choice": _CHOICE,
    "classification": _CLASSES,
    "squad": _SQUAD,
    "paper": _CHOICE + _CLASSES + _SQUAD,
    "embedded": ["embedded_continuation", "embedded_last_word"],
}
OWN = TASK_SETS["paper"] + TASK_SETS["embedded"]


def expand(names: Sequence[str]) -> list[str]:
    """The names with each set replaced by its tasks, each once."""
    return list(dict.fromkeys(task for name in names for task in TASK_SETS.get(name, [name])))


def name_of(task: Task) -> str:
    """What a user calls this task."""
    name = str(task.config.task)
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX)
    return STOCK + name if name in OWN else name


def text_of(run: Run, names: Sequence[str], text: Path | None = None, *, seed: int = 0) -> EmbeddedText | None:
    """What embedded tasks among these are made of (see `embedded_text`); None where there are none.

    Raises:
        ConfigError: a text that no task is made of, or an imported model without one.
        DataError: no such text, or too little.
    """
    if set(TASK_SETS["embedded"]) & set(expand(names)):
        return embedded_text(run, text, seed=seed)
    if text is not None:
        raise ConfigError(f"--text: {text} has no effect on {', '.join(names)}; only embedded tasks are made of text")
    return None


def load_tasks(
    names: Sequence[str], *, data_dir: Path | None = None, fewshot: int = 0, embedded: EmbeddedText | None = None
) -> dict[str, Task]:
    """Tasks by what users call them, in the order asked.

    Args:
        names: of ours, of lm-evaluation-harness (a group or tag gives all its tasks), or of `TASK_SETS`.
        data_dir: a folder with `<task>/calibration.jsonl` and `<task>/test.jsonl` of the hub's fields, in place of the
            hub; lm-evaluation-harness's own tasks always come from the hub.
        fewshot: solved examples before each item, whatever number a task file names.
        embedded: the text of the embedded tasks.

    Raises:
        ConfigError: no such task, or an embedded task without text.
        DataError: a file is missing or wrong, or the hub cannot be reached.
    """
    wanted = expand(names)
    stock = [name for name in wanted if name not in OWN]
    manager = TaskManager() if stock else None  # reads thousands of files
    found: dict[str, Task] = {}
    for name in wanted:
        tasks = [_own(name, data_dir, fewshot, embedded)] if manager is None or name in OWN else _stock(name, manager)
        for task in tasks:
            task.set_config("num_fewshot", fewshot)
            task.set_fewshot_seed(FEWSHOT_SEED)
            found[name_of(task)] = task
    return found


def _own(name: str, data_dir: Path | None, fewshot: int, embedded: EmbeddedText | None) -> OwnTask:
    config = {**read_task_file(FILES / f"{name}.yaml"), "num_fewshot": fewshot}
    if name in TASK_SETS["embedded"]:
        if embedded is None:
            raise ConfigError(f"{name}: is made of text, and none was given; name some with --text FILE")
        return OwnTask(config, embedded.rows(name))
    if data_dir is None:
        where = f"{name}: {config['dataset_path']} cannot be loaded from the Hugging Face hub"
        advice = "connect once, or give its items with --data-dir DIR"
    else:
        config |= _local(data_dir / name)
        where, advice = f"{data_dir / name}: cannot be read as {name}", "the fields must be those of the hub's dataset"
    try:
        return OwnTask(config)
    except Exception as error:  # those of datasets, its hub client and Jinja have no common class
        raise DataError(f"{where} ({_first_line(error)}); {advice}") from error


def _local(folder: Path) -> dict[str, Any]:
    """The entries of a task file that make it read a folder."""
    files = {split: folder / f"{split}.jsonl" for split in SPLITS}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"{path}: is missing; --data-dir DIR needs DIR/<task>/calibration.jsonl and test.jsonl")
    calibration, test = SPLITS
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
        "training_split": calibration,
        "fewshot_split": calibration,
        "test_split": test,
    }


def _stock(name: str, manager: TaskManager) -> list[Task]:
    own = name.removeprefix(STOCK)
    if own not in manager.all_tasks:
        close = difflib.get_close_matches(name, [*OWN, *TASK_SETS, *manager.all_tasks], n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(
            f"--tasks: there is no '{name}'.{hint} Choose of {', '.join(OWN)}, of the sets {', '.join(TASK_SETS)}, "
            "or a task of lm-evaluation-harness (`lm-eval ls tasks`)"
        )
    try:
        return list(manager.load([own])["tasks"].values())
    except Exception as error:  # of datasets, its hub client and the task's own code
        raise DataError(f"{name}: cannot be loaded from the Hugging Face hub ({_first_line(error)})") from error


class _Loader(yaml.SafeLoader):
    """YAML with lm-evaluation-harness's `!function package.module.name`, for functions of this folder alone."""


def _function(_: Any, node: Any) -> Any:
    assert node.value.startswith(f"{__package__}."), f"{node.value} is no function of {__package__}"
    return pkgutil.resolve_name(node.value)


_Loader.add_constructor("!function", _function)


def read_task_file(path: Path) -> dict[str, Any]:
    """A task file on top of the one it includes; lists and mappings are replaced, not merged."""
    own: Mapping[str, Any] = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    base = read_task_file(path.parent / own["include"]) if "include" in own else {}
    return base | {key: value for key, value in own.items() if key != "include"}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
