import json
import os
import resource

import pytest
import torch

from sinkpretrain import checkpoints
from sinkpretrain.checkpoints import Checkpoint
from sinkpretrain.errors import DiskFullError, ResumeError


def write(folder, step, keep=2, value=None, size=12):
    weight = torch.full((size,), float(step if value is None else value))
    checkpoint = Checkpoint(
        step=step,
        model={"a": weight, "tied": weight},
        optimizer={"state": {0: {"exp_avg": weight * 2}}, "param_groups": [{"lr": 0.5, "params": [0]}]},
        random={"torch": torch.arange(6).reshape(2, 3)},
        state={"seconds": 1.5},
    )
    return checkpoints.write(folder, checkpoint, keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read_back(tmp_path):
    write(tmp_path, 7)
    found = checkpoints.read(tmp_path, 7)
    torch.testing.assert_close(found.model, {"a": torch.full((12,), 7.0)})
    torch.testing.assert_close(found.optimizer["state"][0]["exp_avg"], torch.full((12,), 14.0))
    assert found.random["torch"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (found.step, found.state) == (7, {"seconds": 1.5})


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15):
        write(tmp_path, step)
    assert checkpoints.steps(tmp_path) == [10, 15]
    assert checkpoints.newest_valid(tmp_path) == (15, [])


def test_a_step_written_again_replaces_the_old_one(tmp_path):
    write(tmp_path, 5, value=1)
    write(tmp_path, 5, value=2)
    assert checkpoints.read(tmp_path, 5).model["a"][0] == 2


def test_what_is_set_aside_is_no_checkpoint_and_no_longer_in_the_way(tmp_path):
    for step in (5, 10):
        write(tmp_path, step)
    checkpoints.set_aside(checkpoints.path_of(tmp_path, 10))
    assert names(tmp_path) == ["damaged_step_00000010", "step_00000005"]
    assert checkpoints.newest_valid(tmp_path) == (5, [])
    write(tmp_path, 10)
    checkpoints.set_aside(checkpoints.path_of(tmp_path, 10))  # once more
    assert names(tmp_path) == ["damaged_step_00000010", "step_00000005"]


def test_other_names_are_no_checkpoints(tmp_path):
    write(tmp_path, 5)
    (tmp_path / "step_final").mkdir()
    (tmp_path / "step_00000009").write_text("a file")
    assert checkpoints.steps(tmp_path) == [5]


@pytest.mark.parametrize("name", checkpoints.FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "replace"])
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
        if damage == "replace":  # reading it would wait for ever
            os.mkfifo(path)
    step, problems = checkpoints.newest_valid(tmp_path)
    assert step == 5
    assert len(problems) == 1 and name in problems[0]
    with pytest.raises(ResumeError, match=name):
        checkpoints.read(tmp_path, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest["files"].pop("optimizer.pt"), r"manifest\.json lists .* instead of"),
        (lambda manifest: manifest["files"].update({"../../secret": "0"}), r"manifest\.json lists .* instead of"),
        (lambda manifest: manifest["files"].clear(), r"manifest\.json lists nothing instead of"),
        (lambda manifest: manifest.update(step=6), r"manifest\.json is that of step 6"),
        (lambda manifest: manifest.pop("step"), r"manifest\.json is missing or unreadable"),
        (lambda manifest: manifest.update(files=3), r"manifest\.json is missing or unreadable"),
        (lambda manifest: manifest["files"].update({"state.json": 3}), r"state\.json was altered"),
    ],
)
def test_a_manifest_that_is_another_is_refused(tmp_path, change, message):
    path = write(tmp_path, 5) / checkpoints.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ResumeError, match=message):
        checkpoints.read(tmp_path, 5)


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
    write(tmp_path, 5).rename(checkpoints.path_of(tmp_path, 6))
    assert "is that of step 5" in checkpoints.problem(checkpoints.path_of(tmp_path, 6))


@pytest.mark.parametrize("how", ["safetensors", "torch", "preflight"])
def test_a_write_that_fails_leaves_no_trace_and_says_what_is_missing(tmp_path, monkeypatch, how):
    """Files may not grow beyond a limit, or the disk has no room."""
    write(tmp_path, 5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if how == "preflight":
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: Usage)
    else:  # weights of 400 kB, an optimizer's state of as much
        limit = 300_000 if how == "safetensors" else 400_400
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(
            DiskFullError, match=r"step_00000010: cannot be written .*: [\d,]+ bytes are needed, "
        ) as caught:
            write(tmp_path, 10, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    reasons = {"safetensors": "File too large", "torch": "optimizer.pt was cut short", "preflight": "No space left"}
    assert reasons[how] in str(caught.value)
    assert "go on with --resume (the one of step 5 is whole)" in str(caught.value)
    assert names(tmp_path) == ["step_00000005"]
    assert checkpoints.newest_valid(tmp_path) == (5, [])
    write(tmp_path, 10, size=100_000)
    assert checkpoints.newest_valid(tmp_path) == (10, [])


class Usage:
    free = 1000


def test_another_error_while_saving_stays_what_it_is(tmp_path, monkeypatch):
    write(tmp_path, 5)
    monkeypatch.setattr(checkpoints.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, 10)
    assert names(tmp_path) == ["step_00000005"]


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".step_00000005.tmp").mkdir()
    (tmp_path / ".step_00000005.tmp" / "model.safetensors").write_bytes(b"half")
    write(tmp_path, 6)
    assert names(tmp_path) == ["step_00000006"]


def test_no_checkpoint_is_no_problem(tmp_path):
    assert checkpoints.newest_valid(tmp_path / "absent") == (None, [])


def test_every_file_is_synced_before_the_rename(tmp_path, monkeypatch):
    events = []
    synced, renamed = os.fsync, type(tmp_path).rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), synced(descriptor)))
    rename = lambda path, target: (events.append("rename"), renamed(path, target))[1]  # noqa: E731
    monkeypatch.setattr(type(tmp_path), "rename", rename)
    write(tmp_path, 5)
    assert events == ["fsync"] * 6 + ["rename", "fsync"]  # five files and their folder; then the folder above
