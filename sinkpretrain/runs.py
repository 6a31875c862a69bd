"""The run folder: where everything is, the state of a run, its metrics, probes and manifests.

```
<run>/config.yaml  environment.json  data_manifest.json  status.json  metrics.jsonl
<run>/probes/step_00000512.npz   arrays named <metric>/<array>, by layer, head or position
<run>/checkpoints/step_00001000/
<run>/interventions/isolate_position.json   what an intervention and its controls moved
<run>/act/heads.json  maps.npz   what calibrating single heads does
<run>/eval/<task set>.json   answers item by item, without and with calibration
```
Every file but `metrics.jsonl`, which is appended to, appears whole or not at all.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from sinkpretrain.config import Config
from sinkpretrain.errors import ConfigError, DataError, ResumeError
from sinkpretrain.files import hold, write_atomically, write_json, write_whole
from sinkpretrain.mappings import build, read_yaml, to_mapping
from sinkpretrain.records import ABOUT, changes, identity, read_record

State = Literal["running", "done", "failed", "preempted"]


def progress_text(values: Mapping[str, float]) -> str:
    """The losses and the speed among these values, for a progress display."""
    shown = {"train/loss": "train {:.3f}", "val/loss": "val {:.3f}", "perf/tokens_per_s": "{:,.0f} tokens/s"}
    return "  ".join(text.format(values[name]) for name, text in shown.items() if name in values)


class Run:
    """One run folder. Making the object touches nothing on disk."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"Run({str(self.root)!r})"

    @classmethod
    def open(cls, root: Path | str) -> "Run":
        """An existing run.

        Raises:
            ConfigError: the folder is not a run.
        """
        run = cls(root)
        if not run.config_path.is_file():
            raise ConfigError(
                f"{root}: is not a run folder (no config.yaml in it); give the folder that `train` printed"
            )
        return run

    @property
    def config_path(self) -> Path:
        """The resolved configuration, one file without `base:`."""
        return self.root / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def source_path(self) -> Path:
        """Where a model that was imported, not trained here, came from; there is no such file in other runs."""
        return self.root / "source.json"

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer of an imported model; that of a trained one is in its token store."""
        return self.root / "tokenizer.json"

    @property
    def name(self) -> str:
        """`<experiment>/<variant>-s<seed>`, as far as the path has it."""
        return "/".join(self.root.resolve().parts[-2:])

    def created(self) -> str:
        """When the run began, as ISO text in UTC; empty where that is not recorded."""
        path = self.root / "environment.json"
        return str(json.loads(path.read_text()).get("created", "")) if path.exists() else ""

    def config(self) -> Config:
        """The run's configuration."""
        return build(Config, read_yaml(self.config_path), "")

    def create(self, config: Config) -> None:
        """Make the folder and write the configuration.

        Raises:
            ResumeError: the folder holds a run already.
        """
        if self.config_path.exists():
            raise ResumeError(
                f"{self.root}: holds a run already; continue it with --resume {self.root}, or give another --out"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_path, yaml.safe_dump(to_mapping(config), sort_keys=False).encode())

    def refuse_other_config(self, config: Config) -> None:
        """Raise where this run was started with another configuration, naming each difference.

        Where it is worked on (`config.PLACEMENT`) is no difference; a vocabulary size that is left to the token store
        is the run's own.
        """
        own = self.config()
        vocab_size = config.model.vocab_size or own.model.vocab_size
        given = replace(config, model=replace(config.model, vocab_size=vocab_size))
        if listed := changes(identity(own), identity(given)):
            raise ResumeError(f"{self.root}: was started with another configuration ({listed}); use another --out")

    @property
    def data_manifest_path(self) -> Path:
        """The manifest of the token store that the run reads."""
        return self.root / "data_manifest.json"

    def refuse_other_data(self, fingerprint: str) -> None:
        """Raise where this run was started on another token store."""
        before = json.loads(self.data_manifest_path.read_text())["fingerprint"]
        if before != fingerprint:
            raise ResumeError(
                f"{self.root}: was started on another token store (fingerprint {before[:12]}, now {fingerprint[:12]}); "
                "bring the old store back, or use another --out"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder alone; the lock goes with the process, however it ends.

        Raises:
            ResumeError: another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        file = hold(self.root / ".lock")
        if file is None:
            raise ResumeError(f"{self.root}: is in use by another process; wait for it, or give another --out")
        with file:
            yield

    def status(self) -> dict[str, Any]:
        """`state`, `step` and more of the last write; empty before the first."""
        path = self.root / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def write_status(self, state: State, **more: Any) -> None:
        """Replace the state, keep the other entries that are not given anew."""
        write_json(self.root / "status.json", {**self.status(), "state": state, **more})

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl, in order; a last line cut short by a crash is left out.

        Raises:
            DataError: a line that is not JSON anywhere else.
        """
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text(encoding="utf-8").split("\n")
        rows = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                raise DataError(f"{self.metrics_path}: line {number} is not JSON; the record was altered") from None
        return rows

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add one line; it is in the operating system's hands when this returns."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step`, and the probes, so that a resumed run writes each step once."""
        kept = [row for row in self.metrics() if row["step"] <= step]
        write_atomically(self.metrics_path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        for late in [late for late in self.probe_steps() if late > step]:
            self.probe_path(late).unlink()

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one metric, where it was recorded."""
        rows = [row for row in self.metrics() if name in row]
        steps = np.array([row["step"] for row in rows], dtype=np.int64)
        return steps, np.array([row[name] for row in rows], dtype=np.float64)

    def probe_path(self, step: int) -> Path:
        """Where the probes of a step are."""
        return self.root / "probes" / f"step_{step:08d}.npz"

    def probe_steps(self) -> list[int]:
        """Steps with a probe record, rising."""
        return sorted(int(path.stem.removeprefix("step_")) for path in self.root.glob("probes/step_*.npz"))

    def probe(self, step: int | None = None) -> dict[str, np.ndarray]:
        """The probe record of a step, the last one by default: arrays by name.

        Raises:
            DataError: no probe record, or none of that step.
        """
        steps = self.probe_steps()
        if not steps or (step is not None and step not in steps):
            found = f"there are {steps}" if steps else "there are none"
            raise DataError(f"{self.root}: no probe record{'' if step is None else f' of step {step}'}; {found}")
        with np.load(self.probe_path(steps[-1] if step is None else step), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def intervention_path(self, name: str) -> Path:
        """Where the record of an intervention is."""
        return self.root / "interventions" / f"{name}.json"

    def interventions(self) -> list[str]:
        """Names of the interventions with a record, sorted."""
        return sorted(path.stem for path in self.root.glob("interventions/*.json"))

    def intervention(self, name: str) -> dict[str, Any]:
        """The record of an intervention: `about`, and `rows`, one for each condition and seed of text.

        Raises:
            DataError: no such record, or one that is not JSON.
        """
        return read_record(self.intervention_path(name), f"sinkpretrain intervene {self.root} --with {name}")

    @property
    def heads_path(self) -> Path:
        """What calibrating each head alone does to calibration items, and the heads that the rules choose."""
        return self.root / "act" / "heads.json"

    @property
    def act_maps_path(self) -> Path:
        """Mean attention maps of the calibrated heads, before and after."""
        return self.root / "act" / "maps.npz"

    def heads(self) -> dict[str, Any]:
        """The record of the head search.

        Raises:
            DataError: no such record, or one that is not JSON.
        """
        return read_record(self.heads_path, f"sinkpretrain calibrate {self.root} --tasks TASK ...")

    def evaluation_path(self, task_set: str) -> Path:
        """Where the record of an evaluation on a set of tasks is."""
        return self.root / "eval" / f"{task_set}.json"

    def evaluations(self) -> list[str]:
        """Names of the task sets with a record, sorted."""
        return sorted(path.stem for path in self.root.glob("eval/*.json"))

    def evaluation(self, task_set: str) -> dict[str, Any]:
        """The record of an evaluation: `about`, and `conditions` by name, each item by item.

        Raises:
            DataError: no such record, or one that is not JSON.
        """
        tasks = task_set.replace("+", " ")
        return read_record(self.evaluation_path(task_set), f"sinkpretrain eval {self.root} --tasks {tasks}")

    def write_probe(self, step: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write the probe record of a step, whole or not at all; `about` says on which text it was measured."""
        arrays = {**arrays, ABOUT: np.array(json.dumps(about))}
        write_whole(self.probe_path(step), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def refuse_other_text(self, step: int, about: Mapping[str, Any]) -> None:
        """Raise where a step's probe record is of another text, so that its metrics could not be read together."""
        before = self.probe(step) if step in self.probe_steps() else {}
        measured_on = json.loads(str(before[ABOUT])) if ABOUT in before else {}
        if before and (listed := changes(measured_on, about)):
            raise ConfigError(
                f"{self.probe_path(step)}: was measured on another text ({listed}); give --out FOLDER for a record of "
                "its own, or delete that file"
            )

    def add_probe(self, step: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Add arrays to the probe record of a step, in place of those of the same name.

        Raises:
            ConfigError: the record is of another text.
        """
        self.refuse_other_text(step, about)
        before = self.probe(step) if step in self.probe_steps() else {}
        self.write_probe(step, {**before, **arrays}, about)
