import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

FAULTS = Path(__file__).parent / "faults"
SPEED = ("seconds", "perf/tokens_per_s", "perf/mfu")


@pytest.fixture(scope="session")
def ranks_file(tmp_path_factory, small_mapping):
    """The configuration file of a run of 12 steps of eight windows, at most four in a pass."""
    path = tmp_path_factory.mktemp("ranks") / "config.yaml"
    path.write_text(yaml.safe_dump({**small_mapping, "micro_batch_size": 4}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def start(ranks_file):
    """Start `train` with these arguments as a process, by `launcher` or as a user does; `fault`: see faults."""

    def begin(*arguments, fault="", launcher=("-m", "sinkpretrain"), **pipes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "FAULT": fault, "PYTHONPATH": str(FAULTS)}
        command = [sys.executable, *launcher, "train", *map(str, arguments)]
        if "--resume" not in command:
            command += ["--config", str(ranks_file)]
        pipes = pipes or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, text=True, **pipes)

    return begin


@pytest.fixture(scope="session")
def finish(start):
    """The same to the end: (exit code, stdout, stderr)."""

    def run(*arguments, **keys):
        process = start(*arguments, **keys)
        said = process.communicate(timeout=120)
        return process.returncode, *said

    return run


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory, small_config):
    """The run of `ranks_file` in this process: two micro-batches a step."""
    from sinkpretrain.training.train import train

    return train(small_config({"micro_batch_size": 4}), tmp_path_factory.mktemp("one") / "rank")


@pytest.fixture(scope="session")
def without_speed():
    """The lines of a run's record but for times."""

    def rows(run):
        return [{name: value for name, value in row.items() if name not in SPEED} for row in run.metrics()]

    return rows


@pytest.fixture(scope="session")
def processes_of():
    """Ids of the living processes whose command names a folder."""

    def find(folder):
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command, state = (
                    (path / "cmdline").read_text(),
                    (path / "stat").read_text().rpartition(")")[2].split()[0],
                )
            except OSError:
                continue
            if str(folder) in command and state != "Z":
                found.append(int(path.name))
        return found

    return find


@pytest.fixture(scope="session")
def reaches():
    """Wait until a run has recorded a step."""

    def wait(run, step, seconds=60):
        until = time.monotonic() + seconds
        while not (rows := run.metrics()) or rows[-1]["step"] < step:
            assert time.monotonic() < until, f"step {step} was not reached: {json.dumps(rows[-1:])}"
            time.sleep(0.05)

    return wait
