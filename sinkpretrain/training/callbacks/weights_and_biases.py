"""Weights & Biases mirrors the run record; it is never the record."""

import contextlib
import json
import logging
import os
import queue
import secrets
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L

from sinkpretrain.config import Config
from sinkpretrain.mappings import to_mapping
from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.mirror import FINISH_SECONDS, kill_with_children
from sinkpretrain.training.module import PretrainModule

logger = logging.getLogger(__name__)

MAX_WAITING_LINES = 4096  # of the record, while W&B is behind; later ones are left out of the mirror
MAX_TAG = 64  # characters of a W&B tag


class WeightsAndBiases(StepCallback):
    """Sends each line of the record. The run's id is kept in status.json and used again after a resume.

    Without a login, and with `wandb.mode: offline`, files go to `<run>/wandb` and the command that uploads them is
    printed at the end. A failure of W&B is reported once; it never slows or stops training, which only puts lines into
    a queue. The end of a run waits `FINISH_SECONDS` at most.
    """

    def __init__(self, run: Run, config: Config) -> None:
        self.run = run
        self.config = config
        self.mirror: Mirror | None = None

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Open the W&B run on rank 0 and mirror the first line."""
        off = self.config.wandb.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"
        if trainer.is_global_zero and not off:
            wandb_id = self.run.status().get("wandb_id") or secrets.token_hex(4)
            self.run.write_status("running", wandb_id=wandb_id)
            self.mirror = Mirror(self._opening(wandb_id))
            self.on_step(trainer, module)

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Mirror the line that was just written."""
        if self.mirror is not None and module.line:
            self.mirror.send(module.step, module.line)

    def on_end(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Close the W&B run; say how to upload what is not."""
        if self.mirror is None:
            return
        mirror, self.mirror = self.mirror, None
        finished = mirror.finish()
        if folder := mirror.about.get("folder"):
            offline = mirror.about["offline"]
            command = sync_command(Path(folder), self.run.status()["wandb_id"], online=not offline)
            if offline:
                logger.info("W&B is offline; upload with: %s", command)
            elif not finished:
                logger.warning("W&B does not have all of it; upload the rest with: %s", command)

    def _opening(self, wandb_id: str) -> dict[str, Any]:
        """What `wandb.init` is given."""
        config = self.config
        attention = [config.model.attention.weights, *config.model.attention.output]
        tags = [config.variant, f"seed-{config.seed}", *(str(part["name"]) for part in attention)]
        return {
            "mode": config.wandb.mode,
            "project": config.wandb.project,
            "group": config.name,
            "name": self.run.root.resolve().name,
            "tags": list(dict.fromkeys(tag[:MAX_TAG] for tag in tags)),
            "id": wandb_id,
            "resume": "allow",
            "dir": str(self.run.root),
            "config": to_mapping(config),
        }


class Mirror:
    """The process that talks to W&B (`training.mirror`), fed by a thread, so that no call of training waits for it."""

    def __init__(self, opening: dict[str, Any]) -> None:
        self.about: dict[str, Any] = {}  # `folder` and `offline`, once it is open
        self._finished = False
        self._waiting: queue.Queue[Any] = queue.Queue(MAX_WAITING_LINES)
        self._dropped = self._given_up = False
        self._started = time.monotonic()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._work, args=(opening,), daemon=True)
        self._thread.start()

    def send(self, step: int, line: dict[str, float]) -> None:
        """Queue a line; returns at once."""
        if not self._thread.is_alive():
            return
        try:
            self._waiting.put_nowait([step, dict(line)])
        except queue.Full:
            if not self._dropped:
                logger.warning("W&B is behind; lines from step %d on are left out of its mirror", step)
            self._dropped = True

    def finish(self) -> bool:
        """Wait for what is queued, `FINISH_SECONDS` at most; whether W&B has taken it all."""
        since = time.monotonic() if self.about else self._started  # what did not open yet may never do so
        end = since + FINISH_SECONDS
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=max(0.0, end - time.monotonic()))
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self._given_up = True
            logger.warning("W&B did not finish within %.0f s and was left", FINISH_SECONDS)
            if self._process is not None:
                kill_with_children(self._process.pid)
            self._thread.join(1.0)
        return self._finished and not self._dropped

    def _work(self, opening: dict[str, Any]) -> None:
        try:
            self._feed(opening)
        except Exception as error:
            logger.warning("W&B failed (%s: %s); training goes on without it", type(error).__name__, error)

    def _feed(self, opening: dict[str, Any]) -> None:
        """Start the process, wait until it is open, pass lines on until the end."""
        command = [sys.executable, "-m", "sinkpretrain.training.mirror"]
        environment = {**os.environ, "WANDB_SILENT": "true"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
            self._process = process
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(opening), file=process.stdin, flush=True)
                first = _said(process)
                self.about = first.get("opened", {})
                item: Any = {}
                while self.about and item is not None:
                    item = self._waiting.get()  # None is the end; a data worker may hold the pipe open after it
                    print(json.dumps(item), file=process.stdin, flush=True)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            last = _said(process) if self.about else first
        self._finished = last.get("finished", False)
        if not (self._finished or self._given_up):
            why = last.get("error", f"its process ended with {process.returncode}")
            logger.warning("W&B failed (%s); training goes on without it", why)


def _said(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The next thing that the mirror says; nothing where it has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    return json.loads(line) if line else {}


def sync_command(folder: Path, wandb_id: str, *, online: bool) -> str:
    """The command that uploads what W&B does not have of a run: each process that worked on it left a folder.

    `folder` is the last one's; the others lie beside it. Those that were uploaded already are left out.
    """
    found = sorted(folder.resolve().parent.glob(f"*run-*-{wandb_id}"))
    folders = [path for path in found if path.name.startswith("offline-") and not any(path.glob("*.wandb.synced"))]
    if online:
        folders.append(folder.resolve())
    return shlex.join(["wandb", "sync", *(["--include-online"] if online else []), *map(str, folders)])
