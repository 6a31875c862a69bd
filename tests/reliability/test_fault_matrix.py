"""The quick trials of every row of the fault matrix, and that the matrix notices what does not hold."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from matrix import table
from matrix.__main__ import main
from matrix.disk import list_touches, listed
from matrix.rows import faults, inject
from matrix.workshop import Workshop

from sinkpretrain import checkpoints

ROWS = faults()
QUICK = [fault for fault in ROWS if fault.quick]
LEAKY = """
from matrix.fault import Fault, Trial


class Leaky(Fault):
    place, name, how, must_hold, quick, full = 1, "leaky", "now and then", "everything", 2, 3

    def trials(self, workshop, count):
        for number in range(count):
            yield Trial(what=f"drop {number}", held=number != 1, happened="it dripped" if number == 1 else "")
"""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def folder_of_faults(tmp_path, monkeypatch):
    """A folder of faults like `matrix/faults`, given the text of one file."""

    def make(text):
        folder = tmp_path / "planted_faults"
        folder.mkdir()
        (folder / "leaky.py").write_text(text)
        monkeypatch.setattr(sys.modules["matrix"], "__path__", [*sys.modules["matrix"].__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, "matrix.planted_faults.leaky", raising=False)
        return folder

    return make


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_every_quick_trial_holds(fault, workshop):
    outcome = inject(fault, workshop, fault.quick)
    assert not outcome.failures
    assert outcome.all_held
    assert len(outcome.trials) == fault.quick


def test_rows_have_a_place_and_a_name_each():
    assert len({fault.place for fault in ROWS}) == len({fault.name for fault in ROWS}) == len(ROWS)
    assert [fault.place for fault in ROWS] == sorted(fault.place for fault in ROWS)
    for fault in ROWS:
        assert type(fault).__module__ == f"matrix.faults.{fault.name}"
        assert 0 <= fault.quick <= fault.full
        assert fault.full > 0


def test_what_does_not_hold_is_listed_and_fails(folder_of_faults, capsys):
    folder = folder_of_faults(LEAKY)
    assert main(["leaky", "--quick"], folder) == 1
    printed = capsys.readouterr()
    assert "- leaky: drop 1: it dripped" in printed.out
    assert "drop 0" not in printed.out
    assert "leaky: 2 trials, 1 held" in printed.err
    assert main([], folder_of_faults_that_holds(folder)) == 0


def folder_of_faults_that_holds(folder):
    """The same row, which holds now."""
    path = folder / "leaky.py"
    path.write_text(path.read_text().replace("number != 1", "True"))
    del sys.modules["matrix.planted_faults.leaky"]
    return folder


@pytest.mark.parametrize(
    ("trials", "listed"),
    [
        ("yield Trial(what='one', held=True)", "made 1 trials instead of 2"),
        ("raise OSError('no such tool')\n        yield", "the trial itself failed: OSError: no such tool"),
    ],
)
def test_a_row_that_makes_too_few_trials_fails(folder_of_faults, capsys, trials, listed):
    head = LEAKY[: LEAKY.index("        for number")]
    folder = folder_of_faults(f"{head}        {trials}\n")
    assert main(["--quick"], folder) == 1
    assert listed in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["unheard_of"], ["--write", "page.md", "--quick"], ["--write", "page.md", "leaky"]]
)
def test_arguments_that_make_no_sense_are_refused(folder_of_faults, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments, folder_of_faults(LEAKY))
    assert ended.value.code == 2


def test_the_table_replaces_the_one_before(tmp_path, folder_of_faults, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{table.BEGIN}\nan old table\n{table.END}\n\nAfter.\n")
    assert main(["--write", str(page)], folder_of_faults(LEAKY)) == 1
    written = page.read_text()
    assert written.startswith("Before.\n") and written.endswith("After.\n")
    assert "an old table" not in written
    assert "| 1 leaky | now and then | everything | 3 | 2 |" in written
    assert "2 of 3 trials held" in written
    assert capsys.readouterr().out.strip() in written


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Nothing here.\n")
    with pytest.raises(ValueError, match="must have the line"):
        table.write_into(page, "a table")
    assert page.read_text() == "Nothing here.\n"


def test_the_page_of_the_project_has_its_marks():
    page = Path(__file__).parents[2] / "docs" / "reliability.md"
    assert page.read_text().count(table.BEGIN) == page.read_text().count(table.END) == 1


@pytest.fixture
def copied(workshop):
    """A copy of the undisturbed run."""
    run = workshop.new_run()
    shutil.copytree(workshop.undisturbed().root, run.root)
    return run


def replace_in_newest(run, change):
    """Write the newest checkpoint of a run anew, changed."""
    newest = checkpoints.steps(run.checkpoints)[-1]
    found = checkpoints.read(run.checkpoints, newest)
    change(found)
    checkpoints.write(run.checkpoints, found, keep=2)


def test_a_copy_of_the_undisturbed_run_does_not_differ(workshop, copied):
    assert workshop.difference(copied) == ""


def test_a_loss_that_differs_in_its_last_digit_is_seen(workshop, copied):
    rows = copied.metrics()
    rows[5]["train/loss"] *= 1 + 2**-52
    copied.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"step {rows[5]['step']} of its record" in workshop.difference(copied)


@pytest.mark.parametrize("change", [lambda lines: lines[:-1], lambda lines: [*lines[:4], *lines[3:]]])
def test_a_line_that_is_missing_or_there_twice_is_seen(workshop, copied, change):
    lines = copied.metrics_path.read_text().splitlines(keepends=True)
    copied.metrics_path.write_text("".join(change(lines)))
    assert "of its record" in workshop.difference(copied) or "lines instead of" in workshop.difference(copied)


def test_a_state_other_than_done_is_seen(workshop, copied):
    copied.write_status("failed")
    assert workshop.difference(copied) == "its state is failed"


def test_a_weight_that_differs_in_its_last_bit_is_seen(workshop, copied):
    def change(found):
        weight = next(iter(found.model.values())).view(-1)
        weight[0] = weight[0].nextafter(weight[0] + 1)

    replace_in_newest(copied, change)
    assert workshop.difference(copied).startswith("/model/")


def test_a_moment_of_the_optimizer_that_differs_is_seen(workshop, copied):
    def change(found):
        found.optimizer["state"][0]["exp_avg_sq"].view(-1)[0] += 1e-9

    replace_in_newest(copied, change)
    assert workshop.difference(copied) == "/optimizer/state/0/exp_avg_sq differs"


def test_every_touch_of_the_disk_is_seen(workshop):
    run, listing = workshop.new_run(), workshop.new_folder("listings") / "touches.jsonl"
    command = ("train", "--config", workshop.config_file(), "--out", run.root)
    log = run.root.parent / "log"
    assert workshop.finish(*command, log=log, before=list_touches, given=(run.root, listing)) == 0, log.read_text()
    touches = listed(listing)
    touched = {re.sub(r"^\.|(\.\d+)?\.tmp$", "", Path(touch.path).name) for touch in touches}
    assert {path.name.removeprefix(".") for path in run.root.rglob("*") if path.is_file()} <= touched
    kinds = {touch.kind for touch in touches}
    assert {"open", "write", "fsync", "mkdir", "unlink", "rmdir"} <= kinds
    assert kinds & {"rename", "replace"}
    assert workshop.difference(run) == ""
