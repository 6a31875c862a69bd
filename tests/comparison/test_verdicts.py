import json

import numpy as np
import pytest
import yaml
from scipy import stats
from training_runs import STEPS, TOKENS, UNTRAINED, small, write_run, write_runs

from sinkpretrain.cli import main
from sinkpretrain.comparison.experiment import read_experiment
from sinkpretrain.comparison.outcomes_of_runs import outcome
from sinkpretrain.comparison.verdict_table import WIDTH, table
from sinkpretrain.comparison.verdicts import compare
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.files import write_json
from sinkpretrain.runs import Run

BASE, BETTER = (4.00, 4.02, 3.99), (3.80, 3.815, 3.80)
PROBED = {"sink/rate_normalised": 0.5, "rank/effective_mean": 40.0, "activation/dominance_mean": 9.0}


@pytest.fixture
def two(tmp_path):
    """Two variants of three seeds: the second is better by 0.2 nats."""
    return write_runs(tmp_path / "trial", {"softmax": BASE, "other": BETTER})


def effect(record, metric="val/loss", pair=0):
    return next(one for one in record["pairs"][pair]["effects"] if one["metric"] == metric)


def test_differences_are_paired_over_seeds(two):
    record = compare(two)
    found, expected = effect(record), stats.ttest_rel(BETTER, BASE)
    assert record["pairs"][0]["seeds"] == [0, 1, 2]
    assert (found["baseline_values"], found["variant_values"]) == (list(BASE), list(BETTER))
    assert found["mean"] == pytest.approx(np.mean(BETTER) - np.mean(BASE))
    assert found["interval"] == pytest.approx(list(expected.confidence_interval()))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["p_holm"] == pytest.approx(2 * expected.pvalue)  # of loss and speed
    assert found["word"] == "gain"
    assert record["about"]["tests"] == 2
    json.dumps(record, allow_nan=False)


def test_the_loss_is_reached_where_a_line_between_validations_crosses_it(two):
    """The curve is straight, so the tokens are known: (8 - target)/(8 - own final) of the budget."""
    speed = compare(two)["pairs"][0]["speed_up"]
    expected = [TOKENS * (UNTRAINED - base) / (UNTRAINED - own) for base, own in zip(BASE, BETTER, strict=True)]
    assert speed["baseline_tokens"] == [TOKENS] * 3
    assert speed["variant_tokens"] == pytest.approx(expected)
    logs = np.log(TOKENS / np.array(expected))
    interval = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert speed["ratio"] == pytest.approx(np.exp(logs.mean()))
    assert speed["interval"] == pytest.approx(np.exp(interval))
    assert (speed["censored"], speed["word"]) == (0, "gain")


def test_the_first_crossing_counts_for_both_sides(tmp_path):
    """A loss that was reached in passing was reached; at a validation the tokens are exact."""
    passing = [(0, 8.0), (0.25, 5.0), (0.5, 6.0), (0.75, 4.5), (1, 5.0)]
    one = outcome(write_run(tmp_path, "a", 0, 5.0, curve=passing))
    assert one.tokens_to(5.0) == TOKENS / 4
    assert one.tokens_to(5.75) == pytest.approx(TOKENS * 3 / 16)
    assert one.tokens_to(4.6) == pytest.approx(TOKENS * (0.5 + 0.25 * 1.4 / 1.5))
    assert one.tokens_to(4.4) is None
    assert one.tokens_to(9.0) == 0


def test_a_loss_that_is_never_reached_is_censored_and_says_so(two):
    """Against the better baseline: no ratio, and the word follows from the loss."""
    pair = compare(two, baseline="other")["pairs"][0]
    speed = pair["speed_up"]
    assert (pair["baseline"], pair["variant"], effect({"pairs": [pair]})["word"]) == ("other", "softmax", "harm")
    assert (speed["censored"], speed["ratio"], speed["interval"], speed["p"]) == (3, None, None, None)
    assert (speed["variant_tokens"], speed["bounds"]) == ([None] * 3, [1.0] * 3)
    assert speed["word"] == "harm"
    assert "0 of 3 seeds" in speed["reason"]
    assert "follows from its higher final loss" in speed["reason"]


def test_a_seed_that_does_not_reach_it_leaves_no_interval(tmp_path):
    record = compare(write_runs(tmp_path, {"softmax": BASE, "other": (3.98, 3.99, 4.01)}))
    speed = record["pairs"][0]["speed_up"]
    assert (speed["censored"], speed["ratio"], speed["word"]) == (1, None, "inconclusive")
    assert [value is None for value in speed["variant_tokens"]] == [False, False, True]
    assert "reached in 2 of 3 seeds" in speed["reason"]
    assert "in 2 of 3 seeds" in record["about"]["sentence"]


def test_speed_is_undecided_where_a_worse_variant_reached_the_loss_in_passing(tmp_path):
    runs = write_runs(tmp_path, {"other": BASE[1:]}) + write_runs(tmp_path, {"softmax": BETTER})
    runs.append(write_run(tmp_path, "other", 2, 4.0, curve=[(0, UNTRAINED), (0.5, 3.7), (1, 4.0)]))
    record = compare(runs, baseline="softmax")
    assert effect(record)["word"] == "harm"
    assert (record["pairs"][0]["speed_up"]["censored"], record["pairs"][0]["speed_up"]["word"]) == (2, "inconclusive")


def test_no_gain_needs_the_margin(tmp_path):
    finals = {"softmax": BASE, "other": tuple(loss - 0.001 * bit for loss, bit in zip(BASE, (1, -1, 0.5), strict=True))}
    runs = write_runs(tmp_path, finals)
    assert effect(compare(runs))["word"] == "no gain"
    assert effect(compare(runs, margin=0.001))["word"] == "inconclusive"
    with pytest.raises(ConfigError, match="--margin"):
        compare(runs, margin=0.0)


def test_under_three_shared_seeds_there_is_no_claim(tmp_path):
    runs = write_runs(tmp_path, {"softmax": BASE, "other": BETTER[:2]})
    record = compare(runs)
    (pair,) = record["pairs"]
    assert pair["seeds"] == [0, 1]
    assert {of["word"] for of in (*pair["effects"], pair["speed_up"])} == {"no claim"}
    assert "2 shared seeds; 3 are needed" in pair["speed_up"]["reason"]
    assert effect(record)["p_holm"] is None
    assert record["about"]["tests"] == 0
    assert record["about"]["sentence"].startswith("No claim about other against softmax")


def test_the_same_values_are_identical(tmp_path):
    runs = write_runs(tmp_path, {"softmax": BASE, "again": BASE}, probed=PROBED)
    (pair,) = compare(runs)["pairs"]
    assert len(pair["effects"]) == 4
    assert {of["word"] for of in (*pair["effects"], pair["speed_up"])} == {"identical"}
    assert (pair["speed_up"]["ratio"], pair["speed_up"]["interval"]) == (1.0, [1.0, 1.0])


def test_sinks_ranks_and_dominance_are_higher_or_lower(tmp_path):
    runs = []
    for seed, (base, own) in enumerate(zip(BASE, BETTER, strict=True)):
        more = {"sink/rate_normalised": 0.001 * seed, "rank/effective_mean": 60.0 + 0.1 * seed}
        runs.append(write_run(tmp_path, "softmax", seed, base, probed=PROBED))
        runs.append(write_run(tmp_path, "other", seed, own, probed=PROBED | more))
    record = compare(runs)
    assert effect(record, "sink/rate_normalised")["word"] == "lower"
    assert effect(record, "rank/effective_mean")["word"] == "higher"
    assert effect(record, "activation/dominance_mean")["word"] == "identical"
    assert [one["metric"] for one in record["pairs"][0]["effects"]] == ["val/loss", *PROBED]


def test_diverged_runs_stay_in_with_the_untrained_loss(two, tmp_path):
    error = "NonFiniteError: step 7: the loss (nan) ..."
    curve = [(0, UNTRAINED), (0.5, 4.0)]
    runs = [*two, write_run(tmp_path, "softmax", 3, 4.0, probed=PROBED)]
    runs.append(write_run(tmp_path, "other", 3, 0, curve=curve, state="failed", error=error, probed=PROBED))
    record = compare(runs)
    (pair,) = record["pairs"]
    assert pair["seeds"] == [0, 1, 2, 3]
    assert effect(record)["variant_values"][3] == UNTRAINED
    assert (pair["speed_up"]["variant_tokens"][3], pair["speed_up"]["censored"]) == (None, 1)
    assert "sink/rate_normalised" not in {one["metric"] for one in pair["effects"]}
    listed = record["variants"][1]["runs"][3]
    assert (listed["state"], listed["diverged"], listed["final_loss"]) == ("failed", True, UNTRAINED)
    assert any("Diverged" in warning and "other-lr0.001-s3" in warning for warning in record["about"]["warnings"])
    assert "8.0000 (diverged)" in table(record)
    turned = compare(runs, baseline="other")["pairs"][0]["speed_up"]
    assert (turned["baseline_tokens"][3], turned["ratio"]) == (None, None)
    assert "other diverged or learned nothing in 1 of the seeds" in turned["reason"]


@pytest.mark.parametrize("state", ["running", "failed", "preempted"])
def test_unfinished_runs_are_listed_and_leave_their_seed_out(tmp_path, state):
    runs = write_runs(tmp_path, {"softmax": (*BASE, 4.0), "other": BETTER})
    runs.append(write_run(tmp_path, "other", 3, 3.8, state=state, error="OSError: disk full"))
    record = compare(runs)
    assert record["pairs"][0]["seeds"] == [0, 1, 2]
    assert record["variants"][1]["runs"][3] | {"folder": ""} == {
        "folder": "",
        "seed": 3,
        "learning_rate": 1e-3,
        "state": state,
        "final_loss": None,
        "diverged": False,
        "chosen": False,
    }
    assert any(f"other-lr0.001-s3 ({state})" in warning for warning in record["about"]["warnings"])
    assert f"3: {state}" in table(record)


@pytest.fixture
def planned(tmp_path):
    """An experiment of two variants whose last runs have not begun; its baseline is the second."""
    content = {"tokens": TOKENS, "seeds": [0, 1, 2, 3], "baseline": "b"}
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump({**content, "variants": {"a": {}, "b": {}}}))
    root = tmp_path / "runs"
    runs = []
    for member in read_experiment(tmp_path / "trial.yaml").members:
        name, seed = member.config.variant, member.config.seed
        if seed < 3:
            run = write_run(tmp_path, name, seed, {"a": BASE, "b": BETTER}[name][seed])
            root.mkdir(exist_ok=True)
            runs.append(Run(run.root.rename(root / member.folder)))
    read_experiment(tmp_path / "trial.yaml").write_record(root)
    return runs


def test_the_experiment_names_its_baseline_and_what_waits(planned):
    record = compare(planned)
    assert record["about"]["baseline"] == "b"
    assert [one["name"] for one in record["variants"]] == ["b", "a"]
    assert [run["state"] for run in record["variants"][0]["runs"]] == ["done", "done", "done", "waiting"]
    assert compare(planned, baseline="a")["about"]["baseline"] == "a"
    some = [run for run in planned if not run.root.name.endswith("s2")]
    assert not any(run["state"] == "waiting" for one in compare(some)["variants"] for run in one["runs"])


def test_baseline_and_variants_are_checked(two, tmp_path):
    with pytest.raises(ConfigError, match="--baseline: 'gate' is not one of the variants: softmax, other"):
        compare(two, baseline="gate")
    with pytest.raises(ConfigError, match=r"all runs given \(3\) are of one variant, 'softmax'"):
        compare(two[:3])
    with pytest.raises(DataError, match="no runs"):
        compare([])
    write_json(two[0].source_path, {"source": "somewhere"})
    with pytest.raises(ConfigError, match="imported model"):
        compare(two)
    twice = write_run(tmp_path / "elsewhere", "other", 1, 4.0)
    with pytest.raises(ConfigError, match="are both 'other' with seed 1 and learning rate 0.001"):
        compare([*two[1:], twice])


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        ({"data": {"seed": 5}}, "data.seed was 0, is 5"),
        ({"data": {"bos": "document"}}, "data.bos was 'none', is 'document'"),
        ({"data": {"document_mask": True}}, "data.document_mask was False, is True"),
        ({"model": {"context_length": 32}}, "model.context_length was 64, is 32"),
        ({"validation": {"windows": 8}}, "validation.windows was 64, is 8"),
        ({"global_batch_size": 32}, "global_batch_size was 16, is 32"),
    ],
)
def test_losses_of_other_text_or_order_are_refused(two, tmp_path, overrides, difference):
    other = write_run(tmp_path / "more", "third", 0, 4.0, overrides=overrides)
    with pytest.raises(ConfigError, match=f"{two[0].root} and {other.root} cannot be compared: {difference}"):
        compare([*two, other])


def test_another_token_store_is_refused(two, tmp_path):
    other = write_run(tmp_path / "more", "third", 0, 4.0, text="b")
    with pytest.raises(ConfigError, match="token store was 'aaaaaaaaaaaa', is 'bbbbbbbbbbbb'"):
        compare([*two, other])
    other.data_manifest_path.unlink()
    with pytest.raises(DataError, match=f"{other.data_manifest_path}: cannot be read"):
        compare([*two, other])


def test_a_variant_is_one_configuration(two, tmp_path):
    other = write_run(tmp_path / "more", "other", 3, 4.0, overrides={"optimizer": {"weight_decay": 0.2}})
    with pytest.raises(ConfigError, match=r"both 'other'.*optimizer.weight_decay 0.2 instead of 0.1"):
        compare([*two, other])
    moved = {"micro_batch_size": 8, "data": {"workers": 2}, "log_every": 5, "wandb": {"mode": "disabled"}}
    compare([*two, write_run(tmp_path / "moved", "other", 3, 4.0, overrides=moved)])


def test_unequal_budgets_are_no_claim(tmp_path):
    runs = write_runs(tmp_path, {"softmax": BASE})
    runs += write_runs(tmp_path, {"other": BETTER}, overrides={"tokens": 2 * TOKENS})
    record = compare(runs)
    assert effect(record)["word"] == "no claim"
    assert f"unequal budgets: softmax {TOKENS:,} and other {2 * TOKENS:,} tokens" in effect(record)["reason"]
    assert record["variants"][1]["unequal"] == ["tokens"]
    assert any("not of equal size: tokens" in warning for warning in record["about"]["warnings"])


def test_unequal_sizes_and_other_differences_are_said(tmp_path):
    runs = write_runs(tmp_path, {"softmax": BASE})
    attention = {"weights": {"name": "sigmoid"}}
    runs += write_runs(tmp_path, {"sigmoid": BETTER}, overrides={"model": {"attention": attention}})
    changed = {"model": {"attention": attention}, "schedule": {"warmup_steps": 7}}
    runs += write_runs(tmp_path, {"other": BETTER}, overrides=changed)
    for run in runs[6:]:
        run.write_status("done", parameters=1100)
    record = compare(runs)
    warnings = record["about"]["warnings"]
    assert "other differs from softmax in more than attention: schedule.warmup_steps 7 instead of 100" in warnings
    assert "other and softmax are not of equal size: parameters 1,100 against 1,000" in warnings
    assert not any("sigmoid" in warning for warning in warnings)
    assert [one["unequal"] for one in record["variants"]] == [[], [], ["parameters"]]
    assert "1,100*" in table(record)


def swept(root, finals):
    """Runs by variant and learning rate, one a seed."""
    return [
        write_run(root, variant, seed, final, rate=rate)
        for variant, by_rate in finals.items()
        for rate, losses in by_rate.items()
        for seed, final in enumerate(losses)
    ]


SWEEP = {
    "softmax": {1e-3: (4.2, 4.2, 4.2), 2e-3: BASE, 4e-3: (4.1, 4.1, 4.1)},
    "other": {1e-3: (4.1, 3.7, 4.1), 2e-3: (3.9, 3.9, 3.9), 4e-3: BETTER},
}


def test_variants_are_compared_at_their_best_rates(tmp_path):
    record = compare(swept(tmp_path, SWEEP))
    assert [one["learning_rate"] for one in record["variants"]] == [2e-3, 4e-3]
    assert effect(record)["variant_values"] == list(BETTER)
    assert effect(record)["word"] == "gain"
    chosen = [run["folder"] for one in record["variants"] for run in one["runs"] if run["chosen"]]
    assert chosen == [f"{name}-s{seed}" for name in ("softmax-lr0.002", "other-lr0.004") for seed in range(3)]
    rates = record["variants"][0]["learning_rates"]
    assert [rate["mean_loss"] for rate in rates] == pytest.approx([4.2, np.mean(BASE), 4.1])
    warnings = " ".join(record["about"]["warnings"])
    assert "other: its best learning rate, 0.004, is the highest that was tried" in warnings
    assert "softmax: its best" not in warnings
    assert "swept" not in warnings
    assert "mean 4.0033 (best)" in table(record)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({2e-3: BETTER}, "other 1 learning rate;"),
        ({2e-3: BETTER, 4e-3: (3.9, 3.9, 3.9)}, "other 2 learning rates of 3 seeds each;"),
        ({rate: (3.9, 3.8, 3.9, 3.9) for rate in (1e-3, 2e-3, 4e-3)}, "other 3 learning rates of 4 seeds each;"),
    ],
)
def test_unequal_tuning_is_no_claim(tmp_path, change, reason):
    found = effect(compare(swept(tmp_path, SWEEP | {"other": change})))
    assert found["word"] == "no claim"
    assert f"unequal tuning: softmax had 3 learning rates of 3 seeds each, {reason}" in found["reason"]
    assert "run the same number of rates and seeds" in found["reason"]


def test_a_rate_that_is_not_finished_cannot_be_chosen(tmp_path):
    runs = swept(tmp_path, SWEEP)
    Run(tmp_path / "other-lr0.004-s1").write_status("running")
    record = compare(runs)
    assert record["variants"][1]["learning_rate"] == 2e-3
    assert record["variants"][1]["learning_rates"][2] == {"learning_rate": 4e-3, "mean_loss": None, "seeds": [0, 2]}
    assert "2 finished of 3 learning rates" in effect(record)["reason"]
    assert any("learning rate 0.004 cannot be chosen" in warning for warning in record["about"]["warnings"])
    Run(tmp_path / "other-lr0.004-s1").write_status("failed", error="NonFiniteError: step 3")
    record = compare(runs)
    assert record["variants"][1]["learning_rate"] == 2e-3  # a diverged run counts, and its rate loses
    assert effect(record)["word"] != "no claim"


def test_one_rate_each_is_allowed_and_said(two):
    assert any("No learning rate was swept (all at 0.001)" in line for line in compare(two)["about"]["warnings"])


def test_the_sentence_says_what_was_found(two):
    assert compare(two)["about"]["sentence"] == (
        "other's validation loss is 0.198 nats lower than softmax's [0.179, 0.217] (3 seeds, gain), and it reaches "
        "softmax's final loss with 0.95 times the tokens [0.95, 0.96] (gain)."
    )


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (
            1,
            "No claim about softmax against other (1 shared seed; 3 are needed): here softmax's validation loss is "
            "0.200 nats higher than other's, and it does not reach other's final loss within its budget.",
        ),
        (
            3,
            "softmax's validation loss is 0.198 nats higher than other's [0.179, 0.217] (3 seeds, harm), and it "
            "reaches other's final loss within its budget in none of the 3 seeds (harm).",
        ),
    ],
)
def test_the_sentence_says_what_is_not_reached_and_claims_nothing_of_few_seeds(two, seeds, said):
    assert compare([*two[:seeds], *two[3 : 3 + seeds]], baseline="other")["about"]["sentence"] == said


def test_the_table_fits_and_lists_every_seed(tmp_path):
    finals = {"a_variant_with_a_very_long_name_that_does_not_fit": (4.0,) * 9, "softmax": np.linspace(3.8, 4.2, 9)}
    text = table(compare(write_runs(tmp_path, finals, probed=PROBED)))
    assert max(map(len, text.splitlines())) <= WIDTH
    for seed, final in enumerate(finals["softmax"]):
        assert f"{seed}: 4.0000 -> {final:.4f}" in text
    assert "same difference" not in text
    assert "identical" in text


def test_what_cannot_be_claimed_is_said_once(tmp_path):
    text = table(compare(write_runs(tmp_path, {"softmax": BASE[:2], "other": BETTER[:2]}, probed=PROBED)))
    before, _, answer = text.partition("No claim about")
    assert before.count("2 shared seeds; 3 are needed") == 1
    assert answer.count("2 shared seeds; 3 are needed") == 1
    assert before.count("equal to the last digit") == 3


def test_a_variant_without_a_finished_run_is_shown(tmp_path):
    runs = write_runs(tmp_path, {"softmax": BASE})
    runs += write_runs(tmp_path, {"other": BETTER}, state="running")
    record = compare(runs)
    assert record["pairs"][0]["seeds"] == []
    assert effect(record)["reason"] == "no shared seed; 3 are needed"
    assert record["variants"][1]["learning_rate"] is None
    assert "shared seeds: none" in table(record)
    json.dumps(record, allow_nan=False)


def test_a_done_run_without_a_loss_is_an_altered_record(two):
    two[0].metrics_path.write_text("")
    with pytest.raises(DataError, match="has no val/loss"):
        compare(two)


def command(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code or 0


def test_the_verb_writes_the_record_beside_the_runs(two, capsys):
    folder = two[0].root.parent
    assert command(["compare", str(folder), "--baseline", "other", "--json"]) == 0
    shown, written = json.loads(capsys.readouterr().out), json.loads((folder / "comparison.json").read_text())
    assert shown == {"record": str(folder / "comparison.json"), **written}
    assert written["about"]["baseline"] == "other"
    out = folder / "elsewhere.json"
    assert command(["compare", *(str(run.root) for run in two), "--margin", "0.02", "--out", str(out)]) == 0
    assert "other's validation loss is 0.198 nats lower" in " ".join(capsys.readouterr().out.split())
    assert json.loads(out.read_text())["about"]["margin"] == 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "mine"], "--tasks: has no effect without --act"),
        (["--metric", "acc"], "--metric: has no effect without --act"),
        (["--act", "--baseline", "softmax"], "--baseline: has no effect with --act"),
    ],
)
def test_options_without_effect_are_refused(two, capsys, options, message):
    assert command(["compare", str(two[0].root), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert command(["compare", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_the_steps_of_made_up_runs_are_their_budget():
    assert small().steps == STEPS
