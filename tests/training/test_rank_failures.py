"""Ranks that fail: all end in time, non-zero, naming the rank, and none is left. Real processes, real signals."""

import os
import signal
import time

import pytest

from sinkpretrain.runs import Run

pytestmark = pytest.mark.slow

TIMEOUT = 4.0  # seconds that ranks wait for each other
# Start and end of four processes on two busy cores, the timeout, the search for the culprit, a stop that is refused.
ALL_END_WITHIN = 90.0

# fault -> what stderr says, and what status.json says
FAULTS = {
    "raise:1:5": (
        ["RuntimeError: power cut", "rank 1 of 2 ended with exit code 1 (RuntimeError: power cut); the other ranks"],
        "rank 1 of 2 failed: RuntimeError: power cut",
    ),
    "SIGKILL:1:5": (["rank 1 of 2 was ended by SIGKILL; the other ranks were stopped"], "rank 1 of 2 "),
    "SIGSTOP:1:5": (
        ["rank 1 of 2 does not answer: last heard of", "rank 1 did not stop when asked and was killed"],
        "rank 1 of 2 does not answer: last heard of",
    ),
    "SIGSTOP:0:5": (
        ["rank 0 of 2, which keeps their store, does not answer", "rank 0 did not stop when asked and was killed"],
        "rank 0 of 2, which keeps their store, does not answer",
    ),
    "sleep:1:5": (
        ["rank 1 of 2 keeps the others waiting: for"],
        "rank 1 of 2 keeps the others waiting: for",
    ),
    "unused:0:0": (["spare: no gradient came, the loss does not depend on it"], "spare: no gradient came"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_all_ranks_end_and_the_one_that_failed_is_named(tmp_path, start, processes_of, fault):
    run, began = Run(tmp_path / "run"), time.monotonic()
    process = start("--devices", 2, "--timeout", TIMEOUT, "--out", run.root, fault=fault)
    _, log = process.communicate(timeout=ALL_END_WITHIN)
    said, recorded = FAULTS[fault]
    assert process.returncode == 1, log
    for text in said:
        assert text in log
    assert run.status()["state"] == "failed"
    assert recorded in run.status()["error"]
    assert not processes_of(run.root)
    if fault.startswith("unused"):  # an error that all ranks share is said once
        assert log.count("no gradient came") == 1
    print(f"{fault}: {time.monotonic() - began:.0f} s from start to end")


def test_no_rank_outlives_its_supervisor(tmp_path, start, reaches, processes_of):
    """Killed outright while one rank is stopped: neither is left."""
    run = Run(tmp_path / "run")
    process = start("--devices", 2, "--out", run.root, "--tokens", 10**7)
    reaches(run, 3)
    ranks = [found for found in processes_of(run.root) if found != process.pid]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGSTOP)
    process.kill()
    process.communicate()
    until = time.monotonic() + 5
    while left := processes_of(run.root):
        assert time.monotonic() < until, left
        time.sleep(0.05)


def test_torchrun_ends_too_and_the_survivor_names_the_rank(tmp_path, start, processes_of):
    run = Run(tmp_path / "run")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sinkpretrain")
    process = start("--out", run.root, "--timeout", TIMEOUT, fault="raise:1:5", launcher=torchrun)
    _, stderr = process.communicate(timeout=ALL_END_WITHIN)
    assert process.returncode == 1
    assert "sinkpretrain: rank 1 of 2 failed: RuntimeError: power cut" in stderr
    assert "rank 1 of 2 failed: RuntimeError: power cut" in run.status()["error"]
    assert not processes_of(run.root)
