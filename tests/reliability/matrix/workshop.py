"""What all faults work with: a token store of real prose, a small run, processes that train it, an undisturbed run.

Processes come from a fork server that has imported torch and Lightning already, so that one starts in a blink; they are
real processes that run the command line, with real signals and exit codes.
"""

import json
import multiprocessing
import os
import pydoc_data.topics
import random
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml

from sinkpretrain import checkpoints
from sinkpretrain.config import Config
from sinkpretrain.data.prepare import prepare
from sinkpretrain.data.store import TokenStore
from sinkpretrain.mappings import build, merge
from sinkpretrain.runs import Run

CONTEXT = 32
STEPS = 12
TIMES = ("seconds", "perf/tokens_per_s", "perf/mfu")
PRELOADED = ["sinkpretrain.training.train", "sinkpretrain.cli.training"]  # what takes seconds to import
PATIENCE = 120.0  # seconds that a process may take


class Workshop:
    """A folder to work in, and what lies there.

    Args:
        folder: for everything that is made.
        seed: of every random choice.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(PRELOADED)
        self._references: dict[str, Run] = {}
        self._made = 0

    @cached_property
    def store(self) -> TokenStore:
        """Tokens of real English text that every Python has: the language reference behind `help()`."""
        folder = self.folder / "prose"
        folder.mkdir(parents=True)
        lines = [json.dumps({"text": text}) for text in pydoc_data.topics.topics.values()]
        (folder / "topics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        recipe = {
            "sources": [{"name": "files", "path": "topics.jsonl"}],
            "tokenizer": {"name": "train", "vocab_size": 512},
            "validation_fraction": 0.1,
        }
        (folder / "prose.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return prepare(folder / "prose.yaml")

    def mapping(self, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The configuration of a run of `STEPS` steps that takes a second, as YAML would give it."""
        own = {
            "tokens": STEPS * 8 * CONTEXT,
            "global_batch_size": 8,
            "micro_batch_size": 8,
            "accelerator": "cpu",
            "log_every": 1,
            "model": {"n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "context_length": CONTEXT},
            "data": {"store": str(self.store.root)},
            "optimizer": {"learning_rate": 1e-2},
            "schedule": {"warmup_steps": 2},
            "validation": {"every": 6, "windows": 16},
            "probes": {"every": 6, "windows": 8},
            "checkpoints": {"every": 2},
            "wandb": {"mode": "disabled"},
        }
        return merge(own, overrides or {})

    def config(self, overrides: Mapping[str, Any] | None = None) -> Config:
        """The same, built."""
        return build(Config, self.mapping(overrides), "")

    def config_file(self, overrides: Mapping[str, Any] | None = None) -> Path:
        """The same in a file."""
        path = self.new_folder("configs") / "config.yaml"
        path.write_text(yaml.safe_dump(self.mapping(overrides)), encoding="utf-8")
        return path

    def new_folder(self, kind: str) -> Path:
        """An empty folder of its own."""
        self._made += 1
        folder = self.folder / kind / f"{self._made:05d}"
        folder.mkdir(parents=True)
        return folder

    def new_run(self) -> Run:
        """A run folder that is not there yet."""
        return Run(self.new_folder("runs") / "run")

    def start(
        self, *arguments: Any, log: Path, before: Callable[..., None] | None = None, given: tuple[Any, ...] = ()
    ) -> BaseProcess:
        """The command line with these arguments in a process of its own; what it says goes to `log`.

        Args:
            arguments: of `sinkpretrain`.
            log: appended to: stdout and stderr.
            before: a function of a module, called in the process first, with `given`; it may plant the fault.
            given: its arguments.
        """
        process = self._forks.Process(target=_command, args=([*map(str, arguments)], log, before, given), daemon=False)
        process.start()
        return process

    def finish(self, *arguments: Any, log: Path, **keys: Any) -> int:
        """The same to the end; its exit code, minus the number of the signal that ended it."""
        process = self.start(*arguments, log=log, **keys)
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{' '.join(map(str, arguments))}: did not end within {PATIENCE:.0f} s; see {log}")
        return process.exitcode

    def undisturbed(self, overrides: Mapping[str, Any] | None = None) -> Run:
        """The finished run of this configuration that nothing has befallen; made once."""
        key = json.dumps(overrides or {}, sort_keys=True)
        if key not in self._references:
            run = self.new_run()
            log = run.root.parent / "log"
            code = self.finish("train", "--config", self.config_file(overrides), "--out", run.root, log=log)
            assert code == 0, log.read_text()
            self._references[key] = run
        return self._references[key]

    def difference(self, run: Run, overrides: Mapping[str, Any] | None = None) -> str:
        """How a finished run differs from the undisturbed one: state, any line but for times, weights, AdamW's state.

        Empty where it does not, to the last bit.
        """
        reference = self.undisturbed(overrides)
        if (state := run.status().get("state")) != "done":
            return f"its state is {state}"
        rows, expected = _without_times(run), _without_times(reference)
        for row, other in zip(rows, expected, strict=False):
            if row != other:
                return f"step {other['step']} of its record reads {row} instead of {other}"
        if len(rows) != len(expected):
            return f"its record has {len(rows)} lines instead of {len(expected)}"
        ends = [checkpoints.read(of.checkpoints, checkpoints.steps(of.checkpoints)[-1]) for of in (run, reference)]
        return "; ".join(_unequal("", *({"model": end.model, "optimizer": end.optimizer} for end in ends)))


def _unequal(name: str, one: Any, other: Any) -> list[str]:
    """Names of what differs between two nests of mappings, lists and tensors."""
    if isinstance(other, Mapping):
        if one.keys() != other.keys():
            return [f"{name} has other keys"]
        return [found for key in other for found in _unequal(f"{name}/{key}", one[key], other[key])]
    if isinstance(other, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for place, pair in pairs for found in _unequal(f"{name}/{place}", *pair)]
    same = torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other
    return [] if same else [f"{name} differs"]


def _without_times(run: Run) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in run.metrics()]


def _command(arguments: list[str], log: Path, before: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    """Run the command line in this process, which a fork server made, and end with its exit code."""
    os.setsid()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a command line of its own
    torch.set_num_threads(1)
    sys.argv = ["sinkpretrain", *arguments]
    if before is not None:
        before(*given)
    from sinkpretrain.cli import run

    code = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
