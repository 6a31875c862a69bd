import os

import pytest
import torch

from sinkpretrain import checkpoints
from sinkpretrain.errors import ResumeError


def write(folder, step, keep=2, value=None):
    weight = torch.full((3, 4), float(step if value is None else value))
    optimizer = {"state": {0: {"exp_avg": weight * 2}}, "param_groups": [{"lr": 0.5, "params": [0]}]}
    return checkpoints.write(folder, step, {"a": weight, "tied": weight}, optimizer, {"seconds": 1.5}, keep)


def test_what_was_written_is_read_back(tmp_path):
    write(tmp_path, 7)
    found = checkpoints.read(tmp_path, 7)
    torch.testing.assert_close(found.model, {"a": torch.full((3, 4), 7.0)})
    torch.testing.assert_close(found.optimizer["state"][0]["exp_avg"], torch.full((3, 4), 14.0))
    assert found.state == {"seconds": 1.5, "step": 7}


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15):
        write(tmp_path, step)
    assert checkpoints.steps(tmp_path) == [10, 15]
    assert checkpoints.newest_valid(tmp_path) == (15, [])


def test_a_step_written_again_replaces_the_old_one(tmp_path):
    write(tmp_path, 5, value=1)
    write(tmp_path, 5, value=2)
    assert checkpoints.read(tmp_path, 5).model["a"][0, 0] == 2


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_every_damage_is_seen_and_the_older_one_found(tmp_path, name, damage):
    write(tmp_path, 5)
    path = write(tmp_path, 10) / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    step, problems = checkpoints.newest_valid(tmp_path)
    assert step == 5
    assert len(problems) == 1 and name in problems[0]
    with pytest.raises(ResumeError, match=name):
        checkpoints.read(tmp_path, 10)


def test_a_write_that_was_cut_short_is_not_a_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 5)

    def cut(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, 10)
    assert checkpoints.steps(tmp_path) == [5]
    assert checkpoints.newest_valid(tmp_path) == (5, [])


def test_no_checkpoint_is_no_problem(tmp_path):
    assert checkpoints.newest_valid(tmp_path / "absent") == (None, [])


def test_every_file_is_synced_before_the_rename(tmp_path, monkeypatch):
    events = []
    synced, renamed = os.fsync, type(tmp_path).rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), synced(descriptor)))
    rename = lambda path, target: (events.append("rename"), renamed(path, target))[1]  # noqa: E731
    monkeypatch.setattr(type(tmp_path), "rename", rename)
    write(tmp_path, 5)
    assert events == ["fsync"] * 5 + ["rename", "fsync"]  # four files and their folder; then the folder above
