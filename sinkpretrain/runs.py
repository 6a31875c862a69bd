"""The run folder: where everything is, the state of a run, its metrics, probes and manifests.

```
<run>/config.yaml  environment.json  data_manifest.json  initial_weights.json  status.json  metrics.jsonl
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
from sinkpretrain.files import (
    append_line,
    hold,
    make_folder,
    remove_leftovers,
    sync,
    write_arrays,
    write_atomically,
    write_json,
)
from sinkpretrain.mappings import build, read_yaml, to_mapping
from sinkpretrain.records import ABOUT, changes, identity, read_arrays, read_record
from sinkpretrain.results import Results

State = Literal["running", "done", "failed", "preempted"]
ENVIRONMENT, DATA_MANIFEST = "environment.json", "data_manifest.json"


def yaml_of(config: Config) -> bytes:
    """A configuration as the file of a run."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False).encode()


def _is_row(row: Any) -> bool:
    """Whether a line of metrics.jsonl is what training writes; a diverged loss is NaN."""
    is_mapping = isinstance(row, dict) and type(row.get("step")) is int and row["step"] >= 0
    return is_mapping and all(type(value) in (int, float) for value in row.values())


class Run(Results):
    """One run folder. Making the object touches nothing on disk."""

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
    def initial_weights_path(self) -> Path:
        """Shape and SHA-256 of each weight before the first step, by which runs can tell that they began alike."""
        return self.root / "initial_weights.json"

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
        return str(self.environment().get("created", ""))

    def environment(self) -> dict[str, Any]:
        """What the run began on, and under `resumed` what it went on on; empty where that is not recorded.

        Raises:
            DataError: it is not JSON.
        """
        path = self.root / ENVIRONMENT
        return read_record(path, "sinkpretrain train") if path.exists() else {}

    def note_resumption(self, now: Mapping[str, Any]) -> None:
        """Record what this process runs on, beside what the run began on."""
        before = self.environment()
        write_json(self.root / ENVIRONMENT, {**before, "resumed": [*before.get("resumed", []), now]})

    def config(self) -> Config:
        """The run's configuration."""
        return build(Config, read_yaml(self.config_path), "")

    def create(self, config: Config, records: Mapping[str, Any] | None = None) -> None:
        """Make the folder, write these records by file name, and the configuration last: with it the folder is a run.

        Raises:
            ResumeError: the folder holds a run already.
        """
        if self.config_path.exists():
            raise ResumeError(
                f"{self.root}: holds a run already; continue it with --resume {self.root}, or give another --out"
            )
        for name, record in (records or {}).items():
            write_json(self.root / name, record)
        write_atomically(self.config_path, yaml_of(config))

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
        return self.root / DATA_MANIFEST

    def refuse_other_data(self, data: Mapping[str, Any]) -> None:
        """Raise where this run was started on another token store, or on other windows of it."""
        record = read_record(self.data_manifest_path, "sinkpretrain train")
        before, fingerprint = str(record.get("fingerprint")), str(data["fingerprint"])
        if before != fingerprint:
            raise ResumeError(
                f"{self.root}: was started on another token store (fingerprint {before[:12]}, now {fingerprint[:12]}); "
                "bring the old store back, or use another --out"
            )
        if record.get("token_hashes", data["token_hashes"]) != data["token_hashes"]:
            raise ResumeError(
                f"{self.root}: was started on other windows of these tokens, by code that ordered them otherwise; go "
                "on with that code, or use another --out"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder alone; the lock goes with the process, however it ends.

        Raises:
            ResumeError: another process holds it.
        """
        make_folder(self.root)
        file = hold(self.root / ".lock")
        if file is None:
            raise ResumeError(f"{self.root}: is in use by another process; wait for it, or give another --out")
        with file:
            yield

    def status(self) -> dict[str, Any]:
        """`state`, `step` and more of the last write; empty before the first.

        Raises:
            DataError: it is not JSON.
        """
        path = self.root / "status.json"
        return read_record(path, "sinkpretrain train") if path.exists() else {}

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
            except (ValueError, RecursionError):
                raise DataError(f"{self.metrics_path}: line {number} is not JSON; the record was altered") from None
            if not _is_row(rows[-1]):
                raise DataError(f"{self.metrics_path}: line {number} is not a step and numbers; the record was altered")
        return rows

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add one line; it is in the operating system's hands when this returns.

        Raises:
            DiskFullError: there is no room.
        """
        append_line(self.metrics_path, json.dumps(row))

    def sync(self) -> None:
        """Let everything that was recorded so far outlast a power cut, as a checkpoint does."""
        probes = self.root / "probes"
        for path in (self.metrics_path, probes, self.root):
            if path.exists():
                sync(path)

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after `step`, and the probes, so that a resumed run writes each step once."""
        for folder in (self.root, self.root / "probes"):
            remove_leftovers(folder)
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
        path = self.probe_path(steps[-1] if step is None else step)
        return read_arrays(path, f"sinkpretrain probe {self.root}")

    def write_probe(self, step: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write the probe record of a step, whole or not at all; `about` says on which text it was measured."""
        arrays = {**arrays, ABOUT: np.array(json.dumps(about))}
        write_arrays(self.probe_path(step), arrays)

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
