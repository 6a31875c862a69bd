import io

import pytest
from rich.console import Console

from sinkpretrain.comparison.attempts import Attempts
from sinkpretrain.comparison.devices import Slot
from sinkpretrain.comparison.experiment import Member
from sinkpretrain.comparison.run_table import RunTable, render, time_text
from sinkpretrain.config import Config


@pytest.fixture
def runs(tmp_path):
    """Twelve: two that run, one of them on its second try, one that failed, a finished one, and waiting ones."""
    made = []
    for seed in range(12):
        member = Member(folder=f"head_rmsnorm_shared-lr0.0003-s{seed}", config=Config(tokens=160_000_000))
        made.append(Attempts(member, tmp_path, retries=1))
    said = {
        "step": 12_345,
        "steps": 19_531,
        "seconds": 5000.0,
        "train/loss": 3.21987,
        "val/loss": 3.41,
        "perf/tokens_per_s": 123456.7,
    }
    for run in made[:2]:
        run.run.write_status("running", **said)
        run.standing, run.slot = "running", Slot(gpus=("0", "1"))
    made[1].failures, made[1]._began_at = 1, (12_000, 4700.0)
    made[2].run.write_status("done", **{**said, "step": 19_531})
    made[2].look()
    made[3].standing, made[3].failures, made[3].exit_code = "failed", 2, -9
    made[3].run.root.mkdir()
    made[3].log.write_text("=== now: train\nsinkpretrain: too bad\n")
    return made


def drawn(runs, height, width=80):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(render(runs, height))
    return console.file.getvalue().rstrip("\n").split("\n")


def test_a_row_a_run_within_80_columns(runs):
    head, *rows, caption = drawn(runs, 40)
    assert max(map(len, [head, *rows, caption])) <= 80
    assert head.split() == ["run", "state", "step", "train", "val", "tok/s", "left", "on"]
    assert len(rows) == 12
    assert rows[0].startswith("head_r") and "…" in rows[0]
    # The first has been at it from the start, the second since step 12,000: 345 steps in 300 seconds.
    assert rows[0].split()[1:] == ["running", "12345/19531", "3.220", "3.410", "123,457", "0:48:30", "GPU", "0,1"]
    assert " ".join(rows[1].split()[1:]) == "try 2 of 2 12345/19531 3.220 3.410 123,457 1:44:09 GPU 0,1"
    assert rows[2].split()[1:] == ["done", "19531/19531", "3.220", "3.410"]
    assert rows[3].split()[1:3] == ["failed", "0/19531"]
    assert caption.strip() == "1 of 12 done, 2 running, 1 failed, 8 waiting"


def test_a_wide_terminal_shows_whole_names(runs):
    assert "head_rmsnorm_shared-lr0.0003-s11" in drawn(runs, 40, width=120)[12]


def test_runs_that_do_not_fit_are_counted(runs):
    lines = drawn(list(reversed(runs)), 8)
    assert len(lines) <= 8
    assert [line.split()[1] for line in lines[1:5]] == ["waiting", "failed", "try", "running"]
    assert lines[5].strip() == "and 8 more: 1 of 8 done, 7 waiting"


def test_plain_lines_say_what_changed_and_now_and_then_where_runs_stand(runs, monkeypatch):
    monkeypatch.setattr("sinkpretrain.comparison.run_table.SECONDS_BETWEEN_LINES", 1e9)
    runs[2].standing = "waiting"
    console = Console(file=io.StringIO(), width=60)
    with RunTable(runs, console) as table:
        first = console.file.getvalue()
        runs[2].standing = "done"
        table.show()
        table.show()
        second = console.file.getvalue()[len(first) :]
        table._last_line -= 1e10
        table.show()
        third = console.file.getvalue()[len(first + second) :]
    assert [line[9:] for line in first.splitlines()] == [
        f"head_rmsnorm_shared-lr0.0003-s0: running on GPU 0,1, log {runs[0].log}",
        f"head_rmsnorm_shared-lr0.0003-s1: try 2 of 2 on GPU 0,1, log {runs[1].log}",
        f"head_rmsnorm_shared-lr0.0003-s3: failed: killed by SIGKILL after 2 tries: too bad ({runs[3].log})",
    ]
    assert [line[9:] for line in second.splitlines()] == [
        "head_rmsnorm_shared-lr0.0003-s2: done at step 19531/19531  train 3.220  val 3.410  123,457 tokens/s"
    ]
    assert [line[9:] for line in third.splitlines()] == [
        "head_rmsnorm_shared-lr0.0003-s0: at step 12345/19531  train 3.220  val 3.410  123,457 tokens/s, 0:48:30 left",
        "head_rmsnorm_shared-lr0.0003-s1: at step 12345/19531  train 3.220  val 3.410  123,457 tokens/s, 1:44:09 left",
        "1 of 12 done, 2 running, 1 failed, 8 waiting",
    ]


def test_time_left_starts_anew_where_a_run_went_back_to_its_checkpoint(runs):
    run = runs[0]
    run._began_at = (100, 60.0)
    assert run.seconds_left({"step": 100, "seconds": 60.0, "steps": 200}) is None
    assert run.seconds_left({"step": 50, "seconds": 30.0, "steps": 200}) is None
    assert run.seconds_left({"step": 60, "seconds": 40.0, "steps": 200}) == 140.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0.4, "0:00:00"), (3723.4, "1:02:03"), (86_400 * 2 + 3600 * 3.9, "2d 03h")]
)
def test_time_in_words(seconds, text):
    assert time_text(seconds) == text


def test_a_status_that_cannot_be_read_is_empty(runs):
    (runs[0].run.root / "status.json").write_text("{")
    assert runs[0].status() == {}
    assert runs[11].status() == {}
