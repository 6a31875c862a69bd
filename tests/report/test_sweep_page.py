"""The page of an experiment: its question and verdict, every run whatever became of it, tables, and commands."""

import shlex
from html import escape
from pathlib import Path

import pytest
import yaml
from made_up import NON_FINITE, QUESTION, RECIPE, write_sweep
from page_reader import Page

from sinkpretrain.cli.command import run
from sinkpretrain.cli.results import runs_of
from sinkpretrain.comparison.verdicts import compare
from sinkpretrain.errors import ConfigError
from sinkpretrain.report import write_report
from sinkpretrain.report.answer import question, verdict
from sinkpretrain.report.commands import commands
from sinkpretrain.report.scope import scope_of
from sinkpretrain.report.states import states
from sinkpretrain.report.verdicts import verdict_tables, verdicts
from sinkpretrain.runs import Run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("runs") / "sweep")


@pytest.fixture(scope="module")
def page(root, tmp_path_factory):
    path = write_report(runs_of([root]), tmp_path_factory.mktemp("page") / "report.html", root)
    return Page(path.read_text())


@pytest.fixture(scope="module")
def record(root):
    return compare(runs_of([root]), "softmax")


def rows(page, caption):
    """Headings and rows of the table whose caption begins so."""
    table = page.source.partition(f"<caption><span>{caption}")[2].partition("</table>")[0]
    headings, *found = Page(f"<table>{table}").rows
    return headings, {row[0]: dict(zip(headings, row, strict=True)) for row in found}


def test_the_question_comes_first_and_then_the_verdict(page, record):
    assert page.source.index("Is &lt;sigmoid&gt; as good as softmax &amp; quick?") < page.source.index(
        'class="verdict"'
    )
    assert QUESTION in page.text
    assert record["about"]["sentence"] in page.text
    assert record["about"]["warnings"]
    assert set(record["about"]["warnings"]) < set(page.items)
    assert page.source.index('class="warnings"') < page.source.index("<h2")


def test_every_run_has_its_state(page):
    headings, found = rows(page, "12 runs: ")
    assert list(found) == [
        *(f"softmax-lr0.001-s{seed}" for seed in range(2)),
        *(f"softmax-lr0.004-s{seed}" for seed in range(3)),
        *(f"sigmoid-lr{rate}-s{seed}" for rate in (0.001, 0.004) for seed in range(3)),
        "softmax-lr0.001-s2",
    ]
    done = found["softmax-lr0.004-s1"]
    assert [done[name] for name in headings[1:5]] == ["done", "100%", "1,000", "1,000"]
    assert (done["time"], done["devices"]) == ("1 min 20 s", "CPU, 2 threads")
    diverged, failed = found["sigmoid-lr0.001-s0"], found["sigmoid-lr0.001-s1"]
    assert (diverged["state"], diverged["progress"]) == ("failed, diverged", "40%")
    assert (failed["state"], failed["time"]) == ("failed", "16 s")
    assert found["sigmoid-lr0.001-s2"]["state"] == "running"
    assert set(list(found["softmax-lr0.001-s2"].values())[1:]) == {"waiting", "\N{EN DASH}"}
    assert "12 runs: 8 done, 2 failed, 1 running, 1 waiting." in page.text
    assert f"sigmoid-lr0.001-s0: {NON_FINITE}" in page.items
    assert "sigmoid-lr0.001-s1: OSError: no space left on <disk>" in page.items


def test_pairs_list_each_seed_and_each_word(page, record):
    (pair,) = record["pairs"]
    headings, found = rows(
        page, "Each seed's last values, and differences: sigmoid less softmax.".replace("'", "&#x27;")
    )
    assert headings[:4] == ["metric", "seed", "softmax", "sigmoid"]
    for effect in pair["effects"]:
        row = found[effect["heading"]]
        assert row["seed"] == "0\n1\n2"
        assert row["softmax"].split() == [f"{value:#.5g}" for value in effect["baseline_values"]]
        assert row["sigmoid"].split() == [f"{value:#.5g}" for value in effect["variant_values"]]
        assert row["verdict"] == effect["word"]
        assert row["reason"] == effect["reason"]
        assert row["mean difference"] == f"{effect['mean']:+#.3g}".replace("-", "\N{MINUS SIGN}")
    assert pair["effects"][0]["metric"] == "val/loss"
    speed = found["tokens to the final loss of softmax, and the speed-up"]
    assert speed["softmax"].split("\n") == ["2,048,000"] * 3
    assert speed["sigmoid"].split("\n") == ["not reached"] * 3
    assert speed["verdict"] == pair["speed_up"]["word"]
    assert set(record["about"]["notes"]) < set(page.items)


def test_learning_rates_and_sizes_are_beside_each_other(page):
    headings, found = rows(page, "The learning-rate sweep")
    assert headings == ["variant", "learning rate", "mean loss", "seeds", ""]
    assert found["sigmoid"]["learning rate"] == "0.004"  # its last row
    assert found["sigmoid"][""] == "chosen"
    assert found["sigmoid"]["seeds"] == "0, 1, 2"
    _, sizes = rows(page, "What is compared")
    assert sizes["softmax"]["parameters"] == "1,500,000"
    assert sizes["sigmoid"]["FLOPs a token"] == "9,100,000"
    assert sizes["sigmoid"]["diverged"] == "1"


def test_unequal_sizes_are_marked(record):
    first, second = record["variants"]
    unequal = {**record, "variants": [first, {**second, "parameters": first["parameters"] + 1}]}
    headings, _ = rows(Page(verdict_tables(unequal)), "What is compared")
    assert "parameters (unequal)" in headings
    assert "FLOPs a token" in headings


def test_figures_show_the_chosen_learning_rate(page):
    assert "Variants are shown at the learning rate chosen for each: softmax 0.004, sigmoid 0.004." in page.text
    assert all("lr 0.001" not in image for image in page.images())
    assert "last loss in nats per token: softmax 3.5556, sigmoid 3.8696 (means of 3 seeds)" in page.text


def test_the_sweep_is_made_again_by_its_file_and_what_was_set_besides(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = runs_of([root])
    text = commands_of(given, root, tmp_path)
    recipe = text.partition("<< 'END_OF_RECIPE'\n")[2].partition("\nEND_OF_RECIPE\n")[0]
    assert yaml.safe_load(recipe) == RECIPE
    assert "sinkpretrain prepare recipe.yaml --out data/texts\n" in text
    assert "# not checked against its file: configs/my sweep.yaml: no such file" in text
    ends = [["compare", "again/sweep"], ["plot", "all", "again/sweep"], ["report", "again/sweep"]]
    assert [shlex.split(line)[1:] for line in text.splitlines()[-3:]] == ends
    write_file(Path("configs/my sweep.yaml"), given[0], tokens=1_024_000)
    text = commands_of(given, root, tmp_path)
    assert "sinkpretrain sweep 'configs/my sweep.yaml' --out again --tokens 2048000\n" in text
    write_file(Path("configs/my sweep.yaml"), given[0], seeds=[0, 1])
    text = commands_of(given, root, tmp_path)
    assert "sinkpretrain sweep" not in text
    assert "now says something else" in text
    assert f"sinkpretrain train --config {given[0].config_path} --out again/sweep/{given[0].root.name}\n" in text


def write_file(path, run, **changed):
    """The experiment's file, as it was but for what is changed."""
    config = yaml.safe_load(run.config_path.read_text())
    shared = {key: value for key, value in config.items() if key not in ("variant", "seed")}
    shared["optimizer"] = {**shared["optimizer"], "learning_rate": [1e-3, 4e-3]}
    variants = {"softmax": {}, "sigmoid": {"model": {"attention": {"weights": {"name": "sigmoid"}}}}}
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**shared, "seeds": [0, 1, 2], "variants": variants, **changed}))


def commands_of(runs, root, folder):
    return commands(scope_of(runs, root), folder / "report.html")


def test_an_experiment_of_which_nothing_has_begun_has_a_page(root, tmp_path, capsys):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "experiment.json").write_text((root / "experiment.json").read_text())
    with pytest.raises(ConfigError, match="holds no run"):
        runs_of([folder])
    assert run(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    page = Page((folder / "report.html").read_text())
    assert "None of the runs has begun" in page.text
    assert page.source.count("waiting</strong>") == 12
    assert "<script" not in page.source
    assert "sinkpretrain sweep 'configs/my sweep.yaml' --out again" in page.text
    (folder / "experiment.json").unlink()
    assert run(["report", str(folder)]) == 2


def test_the_runs_of_an_experiment_are_in_the_order_of_its_file(root):
    assert [one.root.name for one in runs_of([root])] == [
        *(f"softmax-lr0.001-s{seed}" for seed in range(2)),
        *(f"softmax-lr0.004-s{seed}" for seed in range(3)),
        *(f"sigmoid-lr{rate}-s{seed}" for rate in (0.001, 0.004) for seed in range(3)),
    ]


def test_some_runs_of_an_experiment_are_not_all_of_it(root, tmp_path):
    runs = [Run(root / f"{variant}-lr0.004-s{seed}") for variant in ("softmax", "sigmoid") for seed in (0, 1)]
    scope = scope_of(runs)
    assert question(scope) == escape(QUESTION)
    assert "4 runs: 4 done." in states(scope)
    assert "sinkpretrain sweep" not in commands(scope, tmp_path / "report.html")
    assert "No claim about sigmoid against softmax" in verdict(scope)
    words = [row[8] for row in Page(verdict_tables(scope.comparison)).rows if row[1:2] == ["0\n1"]]
    assert len(words) > 3
    assert set(words) == {"no claim"}


def test_what_cannot_be_compared_says_why(root):
    scope = scope_of([Run(root / "softmax-lr0.004-s0")])
    assert "No comparison: all runs given (1) are of one variant, &#x27;softmax&#x27;" in verdict(scope)
    assert verdicts(scope) == ""
