"""Data workers that end or stop, as real processes; the fault matrix does it to whole runs."""

import multiprocessing
import os
import signal

import pytest
from torch.utils.data import Dataset

from sinkpretrain.data.datamodule import WatchedLoader, naming_lost_workers
from sinkpretrain.errors import SinkpretrainError


class Failing(Dataset):
    """Ten numbers; what loads the fourth meets its end."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 10

    def __getitem__(self, number):
        if number == 3:
            self.fail()
        return number


def exits():
    os._exit(3)


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stops():
    os.kill(os.getpid(), signal.SIGSTOP)


def load(fail, workers=1, patience=60.0):
    return list(WatchedLoader(Failing(fail), patience=patience, batch_size=None, num_workers=workers))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fail", "patience", "said"),
    [
        (exits, 60.0, r"a data worker \(process \d+\) ended unexpectedly, most often because memory ran out; ask for"),
        (is_killed, 60.0, r"a data worker \(process \d+\) was ended by SIGKILL, most often"),
        (stops, 2.0, r"a data worker has not answered for 2 s \(timeout\): it was stopped, or waits for a disk"),
    ],
)
def test_a_lost_worker_is_named_and_none_is_left(fail, patience, said, workers):
    with pytest.raises(SinkpretrainError, match=said), naming_lost_workers():
        load(fail, workers, patience)
    assert not multiprocessing.active_children()


def test_other_errors_and_other_processes_are_left_alone():
    other = multiprocessing.Process(target=signal.pause, daemon=True)
    other.start()
    with pytest.raises(RuntimeError, match="power cut"), naming_lost_workers():
        raise RuntimeError("power cut")
    with naming_lost_workers():
        assert load(lambda: None, workers=2) == list(range(10))
    assert multiprocessing.active_children() == [other]
    other.kill()
    other.join()
