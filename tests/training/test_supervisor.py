"""The supervisor of ranks that end before they load anything heavy; the real ones are in test_rank_failures."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sinkpretrain.errors import ConfigError
from sinkpretrain.training import supervisor
from sinkpretrain.training.placement import Place, from_environment, placed

FAULTS = str(Path(__file__).parent / "faults")
PLACE = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def with_fault(monkeypatch):
    """Let the ranks that this process starts fail."""

    def plant(fault):
        monkeypatch.setenv("PYTHONPATH", FAULTS)
        monkeypatch.setenv("FAULT", fault)

    return plant


def test_ranks_that_end_well_say_nothing(capfd):
    assert supervisor.supervise(["--help"], 2) == 0
    captured = capfd.readouterr()
    assert captured.out.count("usage: sinkpretrain") == 2
    assert captured.err == ""


@pytest.mark.parametrize("code", [1, 7])
def test_the_exit_code_is_that_of_the_rank_that_failed(capfd, with_fault, code):
    with_fault(f"exit:1:{code}")
    assert supervisor.supervise(["--help"], 2) == code
    named = f"sinkpretrain: rank 1 of 2 ended with exit code {code}; the other ranks were stopped; see above\n"
    assert capfd.readouterr().err == named


def test_what_all_ranks_end_with_was_said_by_rank_0(capfd):
    assert supervisor.supervise(["train", "--config", "nothing.yaml"], 2) == 2
    assert "ended with" not in capfd.readouterr().err


def test_a_rank_that_will_not_stop_is_killed(capfd, with_fault, monkeypatch):
    for name in ("GRACE", "GRACE_ASKED"):
        monkeypatch.setattr(supervisor, name, 0.5)
    with_fault("stubborn:1:7")
    assert supervisor.supervise(["--help"], 2) == 7
    said = capfd.readouterr().err
    assert "rank 0 of 2 ended with exit code 7; rank 1 did not stop when asked and was killed; see above" in said


def test_the_second_signal_kills(with_fault, processes_of):
    """The first one ends rank 0, which has not taken it over yet, and not rank 1; this is resumable."""
    with_fault("stubborn:1:")
    unique = "--no-such-option-of-this-test"
    program = (
        f"import sys; from sinkpretrain.training.supervisor import supervise; sys.exit(supervise(['{unique}'], 2))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 20
    while len(processes_of(unique)) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)  # for rank 1 to ignore it
    process.send_signal(signal.SIGTERM)
    time.sleep(supervisor.SAME_SIGNAL + 0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 75
    assert not processes_of(unique)


def test_signals_are_given_back():
    before = [signal.getsignal(number) for number in supervisor.SIGNALS]
    supervisor.supervise(["--help"], 1)
    assert [signal.getsignal(number) for number in supervisor.SIGNALS] == before


def test_a_process_alone_has_no_supervisor():
    assert not supervisor.is_supervised()
    supervisor.tell(error="nobody hears it")
    supervisor.follow_supervisor()


def test_the_place_comes_from_torchruns_variables(monkeypatch, small_config):
    for name in (*PLACE, *MASTER):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() is None
    assert placed(small_config()) == small_config()
    for name, value in {**PLACE, **MASTER}.items():
        monkeypatch.setenv(name, value)
    place = from_environment()
    assert place == Place(rank=3, world_size=4, local_rank=1, local_world_size=2)
    assert (place.nodes, str(place)) == (2, "rank 3 of 4")
    there = placed(small_config({"devices": 8}))
    assert (there.devices, there.nodes, there.windows_per_pass) == (2, 2, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="4 is not a multiple of LOCAL_WORLD_SIZE"):
        from_environment()
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(ConfigError, match="MASTER_PORT is not"):
        from_environment()


def test_nodes_without_ranks_are_refused_with_the_command(monkeypatch, small_config):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"torchrun --nnodes 2 --nproc-per-node 4 .* -m sinkpretrain train"):
        placed(small_config({"nodes": 2, "devices": 4}))
    with pytest.raises(ConfigError, match="devices: 4 need a process each; start them by the command"):
        placed(small_config({"devices": 4}))
