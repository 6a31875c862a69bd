"""Verdicts about ACT from records: what each variant is said to do, and which records are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from act_runs import ELIGIBLE, TASKS, write_act_run

from sinkpretrain.cli import run as command
from sinkpretrain.comparison.act_records import variants_of
from sinkpretrain.comparison.persistence import persistence
from sinkpretrain.comparison.persistence_table import WIDTH, table
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.statistics import mean_effect
from sinkpretrain.files import write_json
from sinkpretrain.mappings import to_mapping

VARIANTS = {
    "gaining": {"effect": 0.2},
    "harmed": {"effect": -0.2},
    "flat": {"items": 3000, "flips": 0.001},
    "sinkless": {"saw_sink": 0, "chosen": 0},
    "one_of_few": {"effect": 0.01},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of every variant that is judged alone; to be read only."""
    root = tmp_path_factory.mktemp("act")
    return {
        name: [write_act_run(root / name / f"{name}-s{seed}", name, seed, **VARIANTS[name]) for seed in range(3)]
        for name in VARIANTS
    }


@pytest.fixture
def write(tmp_path):
    """A run in a folder of its own."""

    def write(name="softmax-s0", **given):
        return write_act_run(tmp_path / "demo" / name, **given)

    return write


def altered(run, path, change):
    """Rewrite a JSON record of a run."""
    record = json.loads(path.read_text())
    change(record)
    write_json(path, record)
    return run


def word(record, rule="act-paper", variant=0):
    return record["variants"][variant]["conditions"][rule]["verdict"]["word"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gaining", "gain"),
        ("harmed", "harm"),
        ("flat", "no gain"),
        ("sinkless", "no-op"),
        ("one_of_few", "inconclusive"),
    ],
)
def test_every_verdict(runs, name, expected):
    record = persistence(runs[name])
    assert {word(record, rule) for rule in ("act-paper", "act-corrected")} == {expected}


def test_numbers_are_those_of_the_records(runs):
    of = runs["gaining"]
    (found,) = persistence(of)["variants"]
    records = [run.evaluation("made_up")["conditions"] for run in of]

    def outcomes(condition, task):
        return np.array([record[condition]["tasks"][task]["items"]["acc"] for record in records])

    paper = found["conditions"]["act-paper"]
    differences = [outcomes("act-paper", task) - outcomes("vanilla", task) for task in TASKS]
    assert paper["minus_vanilla"] == mean_effect(differences, bounded=True).record()
    assert found["conditions"]["vanilla"]["mean"] == pytest.approx(np.mean([outcomes("vanilla", t) for t in TASKS]))
    beyond = [outcomes("act-paper", task) - outcomes("random-heads", task) for task in TASKS]
    assert found["conditions"]["random-heads"]["act_minus_it"]["mean"] == pytest.approx(np.mean(beyond))
    assert found["tasks"][TASKS[0]]["act-paper"]["minus_vanilla"]["mean"] == pytest.approx(differences[0].mean())
    assert found["chance"] == 0.25
    assert (found["seeds"], found["concerns"]) == (3, "the variant")
    chosen = {"act-paper": [4] * 3, "act-corrected": [4] * 3}
    assert found["heads"] == {"eligible": [len(ELIGIBLE)] * 3, "saw_sink": [8] * 3, "chosen": chosen}
    assert set(found["metrics"]) == {"acc_norm", "logprob", "margin"}
    assert found["metrics"]["acc_norm"]["act-paper"]["verdict"]["word"] == "gain"


def test_verdicts_are_adjusted_for_the_variants_beside_them(write):
    alone = write(variant="a", effect=0.03, items=600)
    one = persistence([alone])["variants"][0]["conditions"]["act-paper"]
    others = [write(f"{name}-s0", variant=name, items=600) for name in "bcd"]
    beside = persistence([alone, *others])["variants"][0]["conditions"]["act-paper"]
    p = beside["minus_vanilla"]["p"]
    assert one["verdict"]["p_adjusted"] <= 2 * p
    assert 7 * p <= beside["verdict"]["p_adjusted"] <= 8 * p


def test_no_op_says_why_and_is_never_no_gain(write):
    sinkless = write("a-s0", variant="a", saw_sink=0, chosen=0)
    unchosen = write("b-s0", variant="b", rules=("act-paper",))
    unmet = write("c-s0", variant="c", met_sink=False)
    record = persistence([sinkless, unchosen, unmet])
    reasons = [one["conditions"]["act-corrected"]["verdict"].get("reason") for one in record["variants"]]
    assert reasons == [
        "no head ever saw a later sink",
        "no head was chosen",
        "no chosen head saw a later sink in the test items",
    ]
    assert {word(record, "act-corrected", place) for place in range(3)} == {"no-op"}
    assert word(record, "act-paper", 1) != "no-op"
    assert "no-op (no head was chosen) in b" in record["answers"]["act-corrected"]
    assert "There is no gain that could persist" in record["answers"]["act-corrected"]


def test_a_variant_is_judged_if_one_of_its_seeds_has_sinks(write):
    seeds = [write("s0", seed=0, saw_sink=0, chosen=0), write("s1", seed=1, effect=0.1)]
    record = persistence(seeds)
    assert word(record) != "no-op"
    assert record["variants"][0]["heads"]["saw_sink"] == [0, 8]


def test_the_answer_says_where_gains_persist_and_of_what_it_speaks(runs, write):
    both = persistence([*runs["gaining"], *runs["harmed"]])["answers"]["act-paper"]
    assert both == ("act-paper: gain in gaining; harm in harmed. The gain of gaining does not persist in harmed.")
    alone = persistence(runs["gaining"][:1])
    assert alone["variants"][0]["concerns"] == "this checkpoint"
    assert "No claim about variants with fewer than 3 seeds (gaining 1)" in alone["answers"]["act-paper"]
    undecided = persistence([*runs["gaining"], *runs["one_of_few"]])["answers"]["act-paper"]
    assert "Whether the gain of gaining persists in one_of_few is undecided." in undecided
    control = write(variant="random", effect=0.2, random_effect=0.2)
    assert "Not shown to exceed the control: random-heads in random" in persistence([control])["answers"]["act-paper"]
    assert "Not shown" not in both


def test_imported_models_are_variants_of_their_own(write):
    models = [write("one", variant="one"), write("two", variant="two")]
    assert [one["variant"] for one in persistence(models)["variants"]] == ["one", "two"]


def test_the_table_has_chance_errors_and_verdicts_in_its_width(runs):
    record = persistence([*runs["gaining"], *runs["sinkless"]])
    lines = table(record).splitlines()
    assert max(map(len, lines)) <= WIDTH
    rows = {line.split()[0]: line for line in lines if line.startswith(("gaining (3)", "  first_task"))}
    vanilla = record["variants"][0]["conditions"]["vanilla"]
    shown = f"{vanilla['mean']:.3f} ({vanilla['standard_error']:.3f})"
    assert shown in rows["gaining"]
    assert "0.250" in rows["gaining"]
    (paper, none) = [
        line for line in lines if line.strip().startswith("act-paper  ") and line.split()[-1] in ("gain", "no-op")
    ]
    low, high = record["variants"][0]["conditions"]["act-paper"]["minus_vanilla"]["interval"]
    assert f"[{low:+.4f}, {high:+.4f}]" in paper
    assert "none" in none
    assert any(line.startswith("Do the gains persist?") for line in lines)
    assert any(
        line.split() == ["sinkless", "12,", "12,", "12", "0,", "0,", "0", "0,", "0,", "0", "0,", "0,", "0"]
        for line in lines
    )


def test_a_missing_record_names_the_commands_that_make_it(write, tmp_path):
    run = write()
    commands = (
        f"sinkpretrain calibrate {run.root} --tasks one two and then sinkpretrain eval {run.root} --tasks one two "
    )
    with pytest.raises(DataError) as caught:
        persistence([run], ["one+two"])
    assert commands + "--act --controls" in str(caught.value)
    assert "(there are: made_up)" in str(caught.value)
    altered(run, run.evaluation_path("made_up"), lambda record: record["conditions"].pop("equal-mass"))
    with pytest.raises(DataError, match=r"lacks equal-mass; make it with .* --act --controls"):
        persistence([run])
    run.evaluation_path("made_up").unlink()
    with pytest.raises(DataError, match=r"no evaluation with ACT; make it with sinkpretrain calibrate .* --tasks TASK"):
        persistence([run])
    with pytest.raises(DataError, match="no runs"):
        persistence([])


def test_a_missing_or_foreign_head_search_is_refused(write):
    run = write()
    altered(run, run.heads_path, lambda record: record["model"].update(sha256="f" * 64))
    with pytest.raises(DataError, match=r"is of another checkpoint \(SHA-256 f{12}\) than was evaluated"):
        persistence([run])
    run.heads_path.unlink()
    with pytest.raises(DataError, match="make it with sinkpretrain calibrate"):
        persistence([run])


def test_other_items_tasks_and_settings_are_refused_with_the_difference(write):
    first = write("a-s0", variant="a")
    with pytest.raises(DataError, match=r"first_task has other items than in .* \(200 and 300, 200 of them shared\)"):
        persistence([first, write("b-s0", variant="b", items=200)])
    with pytest.raises(DataError, match=r"other tasks than .* \(first_task instead of first_task, second_task\)"):
        persistence([first, write("c-s0", variant="c", tasks=TASKS[:1])])
    shots = write("d-s0", variant="d")
    altered(shots, shots.evaluation_path("made_up"), lambda record: record["about"].update(fewshot=5))
    with pytest.raises(DataError, match=r"evaluated otherwise than .* \(fewshot was 0, is 5\)"):
        persistence([first, shots])
    beta = write("e-s0", variant="e")

    def change(record):
        record["conditions"]["act-paper"]["act"]["settings"]["beta"] = 0.7

    altered(beta, beta.evaluation_path("made_up"), change)
    with pytest.raises(DataError, match=r"\(act-paper.beta was 0.4, is 0.7\)"):
        persistence([first, beta])


def test_seeds_must_be_seeds_of_one_configuration(write):
    first = write("a-s0")
    with pytest.raises(DataError, match=r"are both seed 0 of 'softmax'"):
        persistence([first, write("again-s0")])
    other = write("b-s1", seed=1)
    longer = replace(other.config(), tokens=2_000_000)
    other.config_path.write_text(yaml.safe_dump(to_mapping(longer)))
    with pytest.raises(DataError, match=r"is not a seed of the 'softmax' of .* \(tokens was 1000000, is 2000000\)"):
        persistence([first, other])


def test_the_record_is_chosen_where_there_are_several(write):
    run = write()
    write(task_set="second", effect=0.3)
    with pytest.raises(ConfigError, match=r"records of made_up, second; choose with --tasks made_up"):
        persistence([run])
    assert persistence([run], ["second"])["about"]["task_sets"] == ["second"]
    assert word(persistence([run], ["second"])) == "gain"
    other = write("b-s0", variant="b", task_set="third")
    with pytest.raises(DataError, match=r"no task set was evaluated with ACT in every run: .* has made_up, second"):
        persistence([run, other])


def test_metric_and_margin_are_checked(write):
    run = write()
    with pytest.raises(ConfigError, match="no task has 'em'; these records have acc, acc_norm, logprob, margin"):
        persistence([run], metric="em")
    with pytest.raises(ConfigError, match="--margin: 0 is out of range"):
        persistence([run], margin=0)
    record = persistence([run], metric="logprob")
    assert (record["about"]["metric"], "acc" in record["variants"][0]["metrics"]) == ("logprob", True)


def test_a_task_without_the_metric_is_left_out_and_named(write):
    run = write()

    def generated(record):
        for entry in record["conditions"].values():
            items = entry["tasks"][TASKS[1]]["items"]
            entry["tasks"][TASKS[1]]["items"] = {"hash": items["hash"], "em": items["acc"], "f1": items["acc"]}

    altered(run, run.evaluation_path("made_up"), generated)
    record = persistence([run])
    assert (list(record["about"]["tasks"]), record["about"]["left_out"]) == ([TASKS[0]], [TASKS[1]])
    assert "without second_task, which have none" in table(record)
    assert {"em", "f1"} <= set(record["variants"][0]["metrics"])


def test_outcomes_are_by_seed_and_item(runs):
    (variant,) = variants_of(runs["gaining"], ["made_up"])
    value_SI = variant.values["vanilla"][TASKS[0]]["acc"]
    assert value_SI.shape == (3, 300)
    assert variant.heads["act-paper"] == (4, 4, 4)
    assert variant.met_sink["random-heads"] == (4, 4, 4)


def test_the_verb_writes_the_record_and_the_figure(runs, tmp_path, capsys):
    folders = [str(run.root) for run in (*runs["gaining"], *runs["harmed"])]
    assert command(["compare", *folders, "--act", "--out", str(tmp_path / "verdicts.json"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "verdicts.json").read_text())
    assert written == {key: shown[key] for key in written}
    assert [word(written, variant=place) for place in range(2)] == ["gain", "harm"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["act_gains.png", "act_gains.svg", "verdicts.json"]


def test_the_record_is_beside_the_run_by_default(write, capsys):
    run = write(effect=0.2)
    assert command(["compare", str(run.root), "--act"]) == 0
    shown = capsys.readouterr().out
    assert "Do the gains persist? act-paper: gain in softmax." in shown
    assert json.loads((run.root / "act" / "persistence.json").read_text())["about"]["metric"] == "acc"
    assert (run.root / "figures" / "act_gains.png").is_file()
