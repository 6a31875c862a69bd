"""The process that talks to Weights & Biases, so that whatever W&B does, training is not there.

`python -m sinkpretrain.training.mirror` reads JSON lines on stdin: first what to open, then `[step, line]` of the
record until `null`, or the end. On stdout it says in JSON lines that it is `opened`, that it has `finished`, or the
`error`.
It sends nothing that it was not given: no console output, code, git state, host, packages or system metrics.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

FINISH_SECONDS = 10.0  # that an upload may take once training has ended
CLOSE_SECONDS = 2.0  # that W&B's own process may take after that
INIT_SECONDS = 30.0  # that the server may take to answer at the start


def main() -> None:
    """Mirror what stdin says."""
    said = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what W&B prints is not what this process says
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # a cluster sends them to every process; this one ends with the training
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    logging.raiseExceptions = False  # W&B's own log on a full disk is no news for the user's terminal
    with contextlib.suppress(OSError):
        os.nice(10)
    try:
        _mirror(sys.stdin, said)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=said)
    _leave()


def _leave() -> None:
    """End, and W&B's own process with it: it has the time to close its files, none to go on trying to upload."""
    import wandb

    closing = threading.Thread(target=wandb.teardown, daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)
    kill_with_children(os.getpid())


def _mirror(lines: TextIO, said: TextIO) -> None:
    opening = json.loads(next(lines))
    mirror = _open(opening)
    about = {"folder": str(Path(mirror.dir).parent), "offline": bool(mirror.offline)}
    print(json.dumps({"opened": about}), file=said)
    while (entry := json.loads(lines.readline() or "null")) is not None:
        step, line = entry
        mirror.log(line, step=step)
    mirror.finish()
    print(json.dumps({"finished": True}), file=said)


def _open(opening: dict[str, Any]) -> Any:
    """Start the W&B run; a server that a logged-in user cannot reach leaves it offline."""
    import wandb

    asked = opening.pop("mode")
    logged_in = asked == "auto" and wandb.login(prompt=False, verify=False)
    mode = chosen_mode(asked, os.environ.get("WANDB_MODE"), bool(logged_in))
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        save_code=False,
        disable_git=True,
        finish_timeout=FINISH_SECONDS - 2,
        finish_timeout_raises=True,
        init_timeout=INIT_SECONDS,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    try:
        return wandb.init(**opening, mode=mode, settings=settings)
    except Exception as error:
        if asked != "auto" or mode != "online":
            raise
        print(f"W&B cannot be reached ({type(error).__name__}: {error}); its mirror stays offline", file=sys.stderr)
        wandb.teardown()  # W&B's own process still holds the run's id
        return wandb.init(**opening, mode="offline", settings=settings)


def chosen_mode(asked: str, environment: str | None, logged_in: bool) -> Any:
    """The mode to open with: `auto` follows WANDB_MODE, then whether the user is logged in."""
    if asked != "auto":
        return asked
    return environment or ("online" if logged_in else "offline")


def kill_with_children(pid: int) -> None:
    """End a mirror and W&B's own process behind it, which would go on trying for minutes."""
    children = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in _words(path)]
    for process in (*children, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # that thread has ended
        return []


def _end_with(parent: int) -> None:
    """Do not outlive the training by more than the time to finish, however it ended."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(FINISH_SECONDS)
    kill_with_children(os.getpid())


if __name__ == "__main__":
    main()
