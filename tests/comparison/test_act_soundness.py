"""Records of ACT that do not belong together are refused, and what a reader must know of them is said."""

import json

import pytest
from act_runs import write_act_run

from sinkpretrain.comparison.persistence import persistence
from sinkpretrain.comparison.persistence_table import WIDTH, table
from sinkpretrain.errors import DataError
from sinkpretrain.files import write_json


@pytest.fixture
def run(tmp_path):
    """A run that was evaluated at its last checkpoint, step 10."""
    run = write_act_run(tmp_path / "demo" / "softmax-s0")
    checkpoint(run, 10, run.heads()["model"]["sha256"])
    return run


def checkpoint(run, step, sha256):
    folder = run.checkpoints / f"step_{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", {"step": step, "files": {"model.safetensors": sha256}})
    return run


def second(run, **given):
    """A record of a second task set of the same run; the head search stays the first's."""
    search = run.heads_path.read_bytes()
    write_act_run(run.root, task_set="more", tasks=("third_task",), **given)
    run.heads_path.write_bytes(search)
    return run


def altered(path, change):
    record = json.loads(path.read_text())
    change(record)
    write_json(path, record)


def warnings(*runs, **more):
    return persistence(runs, **more)["about"]["warnings"]


def test_records_that_belong_together_need_no_remark(run):
    record = persistence([run])
    assert record["about"]["warnings"] == []
    assert "! " not in table(record)


def test_task_sets_of_one_run_are_read_together(run):
    record = persistence([second(run)], ["made_up", "more"])
    assert list(record["about"]["tasks"]) == ["first_task", "second_task", "third_task"]


def test_a_head_counts_as_having_met_a_sink_in_any_task_set(run):
    for name in ("act-paper", "act-corrected"):
        path = run.evaluation_path("made_up")
        altered(path, lambda record, name=name: record["conditions"][name]["act"].update(saw_sink=[]))
    assert persistence([run])["variants"][0]["conditions"]["act-paper"]["verdict"]["word"] == "no-op"
    both = persistence([second(run)], ["made_up", "more"])
    assert both["variants"][0]["conditions"]["act-paper"]["verdict"]["word"] != "no-op"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["about"]["model"].update(step=20, sha256="e" * 64), r"model.step was 10, is 20; model.sha256 was"),
        (lambda r: r["about"].update(fewshot=5), "fewshot was 0, is 5"),
        (lambda r: r["about"].update(bos="always"), "bos was 'auto', is 'always'"),
        (lambda r: r["conditions"]["act-paper"]["act"].update(heads=[[2, 0]]), r"act-paper.heads was \[\[2, 0\], "),
        (
            lambda r: r["conditions"]["act-paper"]["act"]["settings"].update(beta=0.7),
            "act-paper.settings.beta was 0.4, is 0.7",
        ),
    ],
)
def test_task_sets_of_other_checkpoints_settings_and_heads_are_refused(run, change, said):
    second(run)
    altered(run.evaluation_path("more"), change)
    with pytest.raises(DataError, match=rf"more.json: was made otherwise than that of 'made_up' \({said}"):
        persistence([run], ["made_up", "more"])


def test_a_checkpoint_that_holds_other_weights_now_is_refused(run):
    checkpoint(run, 10, "d" * 64)
    with pytest.raises(
        DataError, match=rf"{run.checkpoints}: step 10 holds other weights \(SHA-256 d{{12}}\) than were"
    ):
        persistence([run])


def test_a_checkpoint_that_is_gone_or_was_trained_on_is_remarked(run, tmp_path):
    checkpoint(run, 30, "d" * 64)
    assert warnings(run) == ["Evaluated before the last checkpoint: demo/softmax-s0 at step 10 of 30"]
    (run.checkpoints / "step_00000010" / "manifest.json").unlink()
    gone, _ = found = warnings(run)
    assert gone.startswith("The evaluated checkpoint is not there any more")
    assert gone.endswith("demo/softmax-s0")
    text = table(persistence([run]))
    assert all(f"! {line[:40]}" in text for line in found)
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize("condition", ["act-paper", "act-corrected", "equal-mass"])
def test_heads_other_than_the_searchs_are_refused(run, condition):
    path = run.evaluation_path("made_up")
    altered(path, lambda record: record["conditions"][condition]["act"]["heads"].pop())
    with pytest.raises(
        DataError, match=rf"'{condition}' was evaluated with 3 heads, the search has 4 .* 3 are in both"
    ):
        persistence([run])


@pytest.mark.parametrize("condition", ["act-paper", "act-corrected", "equal-mass"])
def test_settings_other_than_the_searchs_are_refused(run, condition):
    path = run.evaluation_path("made_up")
    altered(path, lambda record: record["conditions"][condition]["act"]["settings"].update(alpha=3.0))
    with pytest.raises(DataError, match=rf"'{condition}' was evaluated with other settings \(alpha was 5.0, is 3.0\)"):
        persistence([run])


def test_items_that_chose_the_heads_are_refused(run):
    tasks = {"first_task": {"items": 2, "fingerprint": "f", "hashes": ["elsewhere", "first_task-7"]}}
    altered(run.heads_path, lambda record: record.update(tasks=tasks))
    with pytest.raises(DataError, match="heads were chosen on 1 of the items of first_task that they are judged by"):
        persistence([run])


def test_searches_and_steps_that_differ_between_runs_are_remarked(run, tmp_path):
    other = write_act_run(tmp_path / "demo" / "b-s0", "b")
    tasks = {"first_task": {"items": 30, "fingerprint": "0123456789", "hashes": ["elsewhere"]}}
    altered(other.heads_path, lambda record: record.update(tasks=tasks))
    altered(other.evaluation_path("made_up"), lambda record: record["about"]["model"].update(step=5))
    checkpoint(other, 5, other.heads()["model"]["sha256"])
    assert warnings(run, other) == [
        "Evaluated at different steps: step 10: demo/softmax-s0; step 5: demo/b-s0",
        "Heads were searched on different items: 30 of first_task (01234567): demo/b-s0; unknown ones: demo/softmax-s0",
    ]


def test_seeds_of_another_token_store_are_refused(run, tmp_path):
    other = write_act_run(tmp_path / "demo" / "softmax-s1", seed=1)
    for one, text in ((run, "a"), (other, "b")):
        write_json(one.data_manifest_path, {"fingerprint": text * 64})
    with pytest.raises(
        DataError, match=r"is not a seed of the 'softmax' of .* \(token store was 'aaaaaaaaaaaa', is 'bbb"
    ):
        persistence([run, other])
