"""Weights & Biases mirrors the run record; it is never the record."""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

import lightning as L

from sinkpretrain.config import Config
from sinkpretrain.mappings import to_mapping
from sinkpretrain.runs import Run
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.module import PretrainModule

logger = logging.getLogger(__name__)


class WeightsAndBiases(StepCallback):
    """Sends each line of the record. The run's id is kept in status.json and used again after a resume.

    Without a login, and with `wandb.mode: offline`, files go to `<run>/wandb` and the command that uploads them is
    printed at the end. A failure of W&B is reported once and never stops training.
    """

    def __init__(self, run: Run, config: Config) -> None:
        self.run = run
        self.config = config
        self.mirror: Any = None

    def on_start(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Open the W&B run on rank 0 and mirror the first line."""
        if trainer.is_global_zero:
            self._guarded(self._open)
            self.on_step(trainer, module)

    def on_step(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Mirror the line that was just written."""
        if self.mirror is not None and module.line:
            self._guarded(lambda: self.mirror.log(module.line, step=module.step))

    def on_end(self, trainer: L.Trainer, module: PretrainModule) -> None:
        """Close the W&B run; say how to upload an offline one."""
        if self.mirror is None:
            return
        folder = Path(self.mirror.dir).parent
        offline = self.mirror.offline
        self._guarded(lambda: self.mirror.finish())
        self.mirror = None
        if offline:
            logger.info("W&B is offline; upload with: wandb sync %s", folder)

    def _open(self) -> None:
        import wandb

        wandb_id = self.run.status().get("wandb_id") or secrets.token_hex(4)
        self.run.write_status("running", wandb_id=wandb_id)
        self.mirror = wandb.init(
            project=self.config.wandb.project,
            group=self.config.name,
            name=f"{self.config.variant}-s{self.config.seed}",
            tags=[self.config.variant],
            id=wandb_id,
            resume="allow",
            mode=self._mode(),
            dir=str(self.run.root),
            config=to_mapping(self.config),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def _mode(self) -> Any:
        """The mode to open with: `auto` follows WANDB_MODE, then whether the user is logged in."""
        import wandb

        if self.config.wandb.mode != "auto":
            return self.config.wandb.mode
        logged_in = wandb.login(prompt=False, verify=False)
        return os.environ.get("WANDB_MODE") or ("online" if logged_in else "offline")

    def _guarded(self, action: Any) -> None:
        """Do it; whatever W&B raises costs the mirror, not the training."""
        try:
            action()
        except Exception as error:
            logger.warning("W&B failed (%s: %s); training goes on without it", type(error).__name__, error)
            self.mirror = None
