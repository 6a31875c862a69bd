"""Whom a rank blames, by what the ranks said; and that what they say arrives. The real failures: test_rank_failures."""

import threading
import time

import pytest
from torch import distributed

from sinkpretrain.training.peers import BACKWARD, FORWARD, SILENCE, PeerLost, Peers, Progress, Word
from sinkpretrain.training.placement import Place

HERE, BEFORE = Progress(5, 10, BACKWARD), Progress(5, 10, FORWARD)


@pytest.fixture
def store():
    return distributed.TCPStore("127.0.0.1", 0, is_master=True)


@pytest.fixture
def peers(store):
    """Rank 1 of 3, in the backward pass of step 5; its words are put in by the test."""
    made = Peers(Place(rank=1, world_size=3), store, judged_after=100.0, on_lost=lambda reason: None)
    made.mark(HERE)
    made.words = {rank: word() for rank in range(3)}
    return made


def word(*, progress=HERE, waits=True, failure="", silent=0.0):
    return Word(progress, 7.0, waits, failure, b"", time.monotonic() - silent)


def test_nobody_is_blamed_where_all_wait(peers):
    assert peers.blame() is None


@pytest.mark.parametrize(
    ("said", "blamed"),
    [
        ({2: dict(failure="ValueError: no")}, "rank 2 of 3 failed: ValueError: no"),
        ({2: dict(silent=SILENCE + 2)}, "rank 2 of 3 does not answer: last heard of 7 s ago, at step 5, backward pass"),
        ({0: dict(progress=BEFORE)}, "rank 0 of 3 keeps the others waiting: for 7 s at step 5, forward pass"),
        ({2: dict(waits=False)}, "rank 2 of 3 keeps the others waiting: for 7 s at step 5, backward pass"),
        ({0: dict(silent=9.0), 2: dict(failure="first cause")}, "rank 2 of 3 failed: first cause"),
        ({0: dict(progress=Progress(6)), 2: dict()}, None),  # ahead of this one, which is to blame itself
    ],
)
def test_a_failure_comes_before_silence_and_silence_before_delay(peers, said, blamed):
    peers.words |= {rank: word(**keys) for rank, keys in said.items()}
    assert peers.blame() == blamed


def test_a_store_that_does_not_answer_is_the_fault_of_its_keeper(peers, monkeypatch):
    peers._answered -= SILENCE + 1
    assert peers.blame().startswith("rank 0 of 3, which keeps their store, does not answer: last heard of")
    peers._is_store_lost = True
    assert peers.blame().startswith("rank 0 of 3, which keeps their store, is gone")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert peers.blame().startswith("torchrun, which keeps the ranks' store, is gone")


def test_an_error_reaches_the_others_and_that_of_a_collective_operation_becomes_its_cause(store):
    """Two ranks as threads: one has a mistake, the other's operation breaks because of it."""
    zero, one = (Peers(Place(rank=rank, world_size=2), store, 100.0, lambda reason: None) for rank in range(2))
    caught = []

    def fail():
        try:
            with one.naming_failures():
                raise ValueError("no such window")
        except ValueError as error:
            caught.append(error)

    def lose_it():
        with zero.naming_failures():
            other.start()
            other.join()
            raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")

    other = threading.Thread(target=fail)
    with pytest.raises(PeerLost, match="rank 1 of 2 failed: ValueError: no such window"):
        lose_it()
    assert len(caught) == 1
