"""Weights & Biases whose server does not answer, or late, whose disk is full, whose processes are killed or stopped."""

import functools
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from matrix import planting
from matrix.fault import Fault, Trial
from matrix.workshop import Workshop
from sinkpretrain.runs import Run

KEY = "0123456789abcdef" * 2 + "01234567"  # looks like a real one: 40 hexadecimal digits
FINISH = 3.0  # seconds that the end of the run waits for W&B, in place of the product's 10
STEP_WAITS = 0.5  # seconds: more than the scheduling of a busy machine, less than anything W&B is waited for
BEGINS = 40.0  # seconds that the injection may take on a busy machine: W&B has to be there first
ENDS = BEGINS + 30.0  # seconds after which the run counts as hanging
LIMIT = 512  # bytes of a file, where the disk is full
LATE = 5.0  # seconds that a slow server takes
ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SERVED = ("server blocks", "server is slow")
CASES = ("mirror killed", *SERVED, "disk full", "core killed", "mirror stopped", "core stopped")


class WeightsAndBiases(Fault):
    """The mirror's process, and W&B's own behind it (the core), are the real ones; the server is a socket here."""

    place = 11
    name = "weights_and_biases"
    how = "a server that blocks or is slow; the disk of its files full; its processes killed or stopped"
    must_hold = "exit 0, every line and weight as without it, no step waits, no process left"
    quick = 1
    full = len(CASES)

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """In order, from the start again when all were made."""
        for case in islice(cycle(CASES), count):
            yield _trial(workshop, case)

    def measured(self, trials: Sequence[Trial]) -> str:
        """How long W&B's callback kept a step."""
        longest = max((trial.seconds for trial in trials if trial.seconds is not None), default=0.0)
        return f"no step waited longer than {1000 * longest:.1f} ms"


def plant(evidence: str, folder: str, case: str, address: str) -> None:
    """Plant: W&B's surroundings, a clock on the callback, and the fault itself, for which a step waits to be there."""
    from sinkpretrain.training.callbacks import weights_and_biases

    os.environ |= {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "HOME": folder, "SINKPRETRAIN_TRIAL": folder}
    os.environ.pop("WANDB_MODE", None)
    weights_and_biases.FINISH_SECONDS = FINISH
    _time_steps(evidence, weights_and_biases.WeightsAndBiases)
    if case == "disk full":
        planting.elsewhere({"mirror": (limit_files, ())})
    planting.when("step", 5, functools.partial(_disturb, evidence, Path(folder), case))


def limit_files() -> None:
    """Plant, in the mirror: no file of this process, or of those that it starts, gets longer."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def _time_steps(evidence: str, callback: Any) -> None:
    """Note at the end how long the callback kept a step at most."""
    step, end = callback.on_step, callback.on_end
    longest = 0.0

    def on_step(*arguments: Any) -> None:
        nonlocal longest
        began = time.perf_counter()
        step(*arguments)
        longest = max(longest, time.perf_counter() - began)

    def on_end(*arguments: Any) -> None:
        planting.note(evidence, f"waited {longest}")
        end(*arguments)

    callback.on_step, callback.on_end = on_step, on_end


def _disturb(evidence: str, folder: Path, case: str) -> None:
    """Let the fault happen, or wait until it has."""
    if case in SERVED:
        _until(lambda: any(what == case for _, what in planting.noted(Path(evidence))))
        return
    if case == "disk full":
        _until(lambda: LIMIT in _sizes(folder))
        planting.note(evidence, case)
        return
    whom, what = case.split()
    _until(lambda: bool(_sizes(folder) and _children(_children(os.getpid())[0])))
    mirror = _children(os.getpid())[0]
    process = mirror if whom == "mirror" else _children(mirror)[0]
    os.kill(process, {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[what])
    planting.note(evidence, case)


def _until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + BEGINS
    while not is_so() and time.monotonic() < until:
        time.sleep(0.05)


def _sizes(folder: Path) -> list[int]:
    """Bytes of each file that W&B has written for a run."""
    return [path.stat().st_size for path in folder.glob("run/wandb/*run-*/**/*") if path.is_file()]


def _children(process: int) -> list[int]:
    with suppress(OSError):
        tasks = Path(f"/proc/{process}/task").glob("*/children")
        return [int(child) for path in tasks for child in path.read_text().split()]
    return []


@contextmanager
def _server(case: str, evidence: Path) -> Iterator[str]:
    """The address of a server that takes connections and notes it, but answers late or never."""

    def serve() -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection, _ = listening.accept()
                planting.note(str(evidence), case)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(1 << 16)
            is_over.wait(LATE if case == "server is slow" else None)
            connection.sendall(ANSWER)

    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        is_over.set()
        listening.shutdown(socket.SHUT_RDWR)


def _trial(workshop: Workshop, case: str) -> Trial:
    run = workshop.new_run()
    folder = run.root.parent
    log, evidence = folder / "log", folder / "evidence"
    overrides = {"wandb": {"mode": "auto" if case in SERVED else "offline"}}
    command = ("train", "--config", workshop.config_file(overrides), "--out", run.root)
    with _server(case, evidence) as address:
        given = (str(evidence), str(folder), case, address)
        process = workshop.start(*command, log=log, before=plant, given=given)
        process.join(ENDS)
    left = planting.left_of(folder, process.pid or 0)
    if process.exitcode is None:
        process.kill()
    noted = [what for _, what in planting.noted(evidence)]
    waited = max((float(what.split()[1]) for what in noted if what.startswith("waited")), default=float("nan"))
    happened = [*_unmet(run, case, process.exitcode, noted, log.read_text())]
    if not waited < STEP_WAITS:
        happened.append(f"a step waited {waited:.2f} s")
    if left:
        happened.append(f"processes {left} were left")
    if process.exitcode == 0 and (difference := workshop.difference(run)):
        happened.append(difference)
    return Trial(what=case, held=not happened, happened="; ".join(happened), seconds=waited)


def _unmet(run: Run, case: str, code: int | None, noted: list[str], said: str) -> Iterator[str]:
    """What does not hold of the end of a run whose W&B was disturbed."""
    if case not in noted:
        yield f"nothing was injected: {noted}"
    if case == "disk full" and max(_sizes(run.root.parent)) != LIMIT:
        yield f"the disk was not full: {_sizes(run.root.parent)}"
    if code != 0 or "Traceback" in said:
        yield f"exit code {code}, and it said: {said[-600:]}"
    if not any(f"W&B {what}" in said for what in ("failed (", "did not finish within", "is offline")):
        yield f"it says nothing of W&B: {said[-600:]}"
