"""The report page: complete, honest, self-contained, and safe to open whatever the runs are called."""

import base64
import gzip
import itertools
import re
import shutil
import statistics
import tomllib
from pathlib import Path

import pytest
from page_reader import Page
from plotly.offline import get_plotlyjs
from synthetic_runs import (
    PROBED_TEXT,
    UNIGRAM_ENTROPY,
    config,
    interventions,
    probe,
    write_run,
    write_runs,
)

from sinkpretrain import registry
from sinkpretrain.errors import DataError
from sinkpretrain.files import write_json
from sinkpretrain.report import write_report
from sinkpretrain.report.manifests import records
from sinkpretrain.runs import Run

ROOT = Path(__file__).parents[2]


KEPT = ("first_token_attention", "sink_rate", "effective_rank", "dominance_ratio")  # what tables are made of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Without the records of most figures, which take seconds to draw."""
    runs = write_runs(tmp_path_factory.mktemp("runs"), ("softmax", "sigmoid"))
    for run in runs:
        for step in run.probe_steps():
            kept = {name: array for name, array in run.probe(step).items() if name.startswith(KEPT)}
            run.write_probe(step, kept, PROBED_TEXT)
        for folder in ("act", "eval"):
            shutil.rmtree(run.root / folder)
    return runs


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    return write_report(runs, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text())


def test_the_page_loads_nothing(path, page):
    assert path.stat().st_size < 10e6
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    source = path.read_text()
    (library,) = re.findall(r'<script id="plotly"[^>]*>(.*?)</script>', source)
    assert gzip.decompress(base64.b64decode(library)).decode() == get_plotlyjs()
    own = source.replace(library, "")
    texts = re.sub("<img [^>]*>", "", own)
    assert not re.search(r"https?://|@import|url\(", texts)
    for image in page.images():
        assert all(link.startswith(("#", "data:")) for link in re.findall(r'(?:href|src)="([^"]*)"', image))
    assert "default-src 'none'" in own  # and browsers refuse what plotly.js might ask for
    assert "$" not in own.partition("<script")[0]


def test_headings_are_in_order_and_named_in_the_contents(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    anchors = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in anchors]
    assert anchors == [
        "runs",
        "convergence",
        "the-argument-in-figures",
        "verdicts",
        "summary",
        "emergence",
        "interventions",
        "what-differs-between-the-runs",
        "environment-and-data",
        "to-reproduce",
    ]


def test_each_run_has_its_recorded_numbers(runs, page):
    headings = next(row for row in page.rows if "perplexity" in row)
    rows = page.rows[page.rows.index(headings) :]
    for run in runs:
        config, last = run.config(), run.metrics()[-1]
        row = next(row for row in rows if row[0] == f"{config.variant}-s{config.seed}")
        cells = dict(zip(headings, row, strict=True))
        assert cells["validation loss (nats a token)"] == f"{last['val/loss']:.4f}"
        assert cells["perplexity"] == f"{last['val/perplexity']:.2f}"
        assert cells["bits a byte"] == f"{last['val/bits_per_byte']:.4f}"
        assert cells["nats below it"] == f"{UNIGRAM_ENTROPY - last['val/loss']:.4f}"
        assert cells["tokens"] == "2,048,000"
        assert cells["parameters"] == "1,500,000"
        assert cells["FLOPs a token"] == "9.1 M"


def test_sinks_are_shown_raw_and_normalised_beside_uniform_attention(runs, page):
    headings = next(row for row in page.rows if "sink rate" in row)
    (row,) = [row for row in page.rows if row[0] == "sigmoid-s1" and len(row) == len(headings)]
    record, last = runs[3].probe(), runs[3].metrics()[-1]
    assert row[1:] == [
        f"{last['sink/first_token_mean']:.4f}",
        f"{record['first_token_attention/normalised'].mean():.4f}",
        f"{float(record['first_token_attention/uniform']):.4f}",
        f"{last['sink/rate']:.4f}",
        f"{record['sink_rate/first_normalised'].mean():.4f}",
        f"{last['rank/effective_mean']:.1f}",
        f"{last['activation/dominance_mean']:.1f}",
    ]


@pytest.mark.slow
def test_figures_follow_the_argument_and_the_screen(tmp_path):
    runs = write_runs(tmp_path / "runs", ("softmax", "sigmoid"))
    page = Page(write_report(runs, tmp_path / "report.html").read_text())
    assert page.figures() == [
        "validation_loss",  # where scripts do not run
        "positional_variance",
        "output_alignment",
        "super_neurons",
        "gate_similarity",
        "down_projection",
        "dominance_ratio",
        "norm_direction",
        "key_alignment",
        "representation_norm",
        "first_token_attention",
        "attention_map",
        "attention_map_layers",
        "score_distribution",
        "sink_positions",
        "sink_tokens",
        "isolate_position",
        "amplify_variance",
        "super_neuron_interventions",
        "act_heads",
        "act_maps",
        "act_gains",
        "sink_rate",
        "first_token_emergence",
        "emergence",
        "effective_rank",
        "head_balance",
        "verdicts",
    ]
    assert set(registry.names("figures")) - set(page.figures()) == {"train_loss"}  # a curve to hover instead
    assert all("</svg>" in image and "prefers-color-scheme: dark" in image for image in page.images())
    alternatives = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    expected = "Chart of super neurons for softmax, sigmoid; the caption says what to look for."
    assert expected in alternatives
    assert all(re.fullmatch(r"[A-Z][^_.]*\.", text) for text in alternatives)
    assert "Not drawn" not in page.text


def test_differences_environment_and_commands_are_listed(runs, page):
    assert ["model.attention.weights.name", "softmax", "sigmoid"] in page.rows
    assert ["key", "softmax-s0, softmax-s1", "sigmoid-s0, sigmoid-s1"] in page.rows
    assert '"torch": "2.13.0"' in page.text
    assert f"sinkpretrain train --config {runs[0].config_path} --out again/demo/softmax-s0" in page.text
    again = "sinkpretrain intervene again/demo/softmax-s0 --with amplify_variance --position 10 --layer 0"
    assert f"{again} --strength 1.0 2.0 4.0 8.0 --tokens 64 --sequences 16 --seeds 3\n" in page.text


def test_emergence_is_a_row_a_run_with_the_levels_stated(runs, page):
    (headings,) = [row for row in page.rows if "lead of neurons (steps)" in row]
    rows = {row[0]: row[1:] for row in page.rows if row[1:2] and len(row) == len(headings)}
    steps, rates = runs[0].series("sink/rate_normalised")
    below = int(steps[rates < 0.1][-1])
    step = int(steps[steps > below][0])
    ratio_steps, ratios = runs[0].series("activation/neuron_peak_ratio")
    neurons = int(ratio_steps[ratios >= 2][0])
    assert rows["softmax-s0"] == [f"{step}", f"{2048 * step:,}", f"{below}", f"{neurons}", f"{step - neurons}"]
    assert rows["sigmoid-s1"][:2] == ["not by 1,000", "\N{EN DASH}"]
    assert "stays at 0.1 or more" in page.text
    assert "stays at 2 times" in page.text
    assert "Across runs: no claim whether early super-neuron activation foretells the sink: 2 runs" in page.text


def test_interventions_are_means_with_spreads_over_seeds(runs, page):
    (headings, *_) = [row for row in page.rows if row[:1] == ["condition"]]
    record = runs[0].intervention("amplify_variance")["rows"]
    of = [row for row in record if (row["condition"], row["strength"]) == ("amplify_variance", 4.0)]
    shown = next(row for row in page.rows if row[:2] == ["amplify_variance", "4"])
    for heading, quantity, form in (
        ("attention score of the position", "received", ".4f"),
        ("perplexity", "perplexity", ".2f"),
        ("entropy of the other rows (nats)", "entropy_others", ".3f"),
        ("dominance ratio, first token", "dominance_first", ".1f"),
    ):
        values = [row[quantity] for row in of]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        assert shown[headings.index(heading)] == f"{mean:{form}} \N{PLUS-MINUS SIGN} {spread:{form}}"
    assert shown[headings.index("position")] == "10"
    assert ["untouched", "\N{EN DASH}", "10"] in [row[:3] for row in page.rows]
    assert "amplify_variance in layer 0: 16 sequences of 64 tokens of held-out text; mean" in page.text
    summaries = [row for row in page.source.split("<summary>") if "amplify_variance, densify" in row]
    assert len(summaries) == len(runs)


def test_runs_share_an_environment_that_differs_in_time_alone(tmp_path):
    runs = write_runs(tmp_path, ("softmax",), 3)
    for hour, (run, torch) in enumerate(zip(runs, ("2.13.0", "2.13.0", "2.14.0"), strict=True)):
        environment = {"created": f"2026-01-01T0{hour}", "versions": {"torch": torch}, "gpus": []}
        write_json(run.root / "environment.json", environment)
    page = Page(records(runs))
    assert "environment.json: softmax-s0, softmax-s1" in page.text
    assert "environment.json: softmax-s2" in page.text
    assert 'softmax-s1: {"created": "2026-01-01T01"}' in page.text
    assert page.text.count('"2.13.0"') == 1


def test_an_imported_model_has_a_page_of_its_own(tmp_path):
    run = Run(tmp_path / "models" / "SmolLM2-135M")
    run.create(config("SmolLM2-135M", 0))
    run.write_status("done", step=0, parameters=134_515_008)
    write_json(run.source_path, {"source": "HuggingFaceTB/SmolLM2-135M", "kind": "hub"})
    arrays = probe("softmax", 0, 1000)
    kept = ("first_token_attention", "sink_rate", "attention_map", "sink_tokens")
    run.write_probe(0, {name: array for name, array in arrays.items() if name.startswith(kept)}, PROBED_TEXT)
    write_json(run.intervention_path("isolate_position"), interventions("softmax", 0)["isolate_position"])
    page = Page(write_report([run], tmp_path / "report.html").read_text())
    assert "<script" not in page.source  # no curves
    tables = [row for row in page.rows if row[0] in ("model", "SmolLM2-135M")]
    assert [row[0] for row in tables] == ["model", "SmolLM2-135M"] * 2
    models, sinks = (dict(zip(*tables[place : place + 2], strict=True)) for place in (0, 2))
    assert models["source"] == "HuggingFaceTB/SmolLM2-135M"
    assert (models["parameters"], models["layers"], models["query heads"]) == ("134,515,008", "6", "4")
    assert sinks["sink rate"] == f"{arrays['sink_rate/first'].mean():.4f}"
    assert sinks["first-token attention"] == f"{arrays['first_token_attention/raw'].mean():.4f}"
    assert "dominance ratio" not in sinks  # not measured: no column of dashes
    assert "nothing was trained here" in page.text
    for absent in (
        "Training: ",
        "Convergence",
        "validation loss",
        "What differs",
        "Emergence</h2>",
        "environment.json",
        "SmolLM2-135M-s0",
    ):
        assert absent not in page.source
    assert "source.json: all runs" in page.text
    assert "sinkpretrain import HuggingFaceTB/SmolLM2-135M again/models/SmolLM2-135M" in page.text
    again = "sinkpretrain intervene again/models/SmolLM2-135M --with isolate_position"
    assert f"{again} --position 10 --tokens 64 --sequences 16 --seeds 3\n" in page.text
    assert not any("loss" in item or "emergence" in item for item in page.items)  # nothing will ever be trained
    assert page.figures() == [
        "first_token_attention",
        "attention_map",
        "attention_map_layers",
        "sink_tokens",
        "isolate_position",
    ]


def test_the_texts_of_the_page_are_part_of_the_installed_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [path for path in (ROOT / "sinkpretrain/report").iterdir() if path.suffix not in (".py", "")]
    assert {path.name for path in files} == {"page.html", "page.css", "curves.js"}
    for file in files:
        assert any(file.relative_to(ROOT / "sinkpretrain").match(pattern) for pattern in packages["sinkpretrain"])


def test_names_are_escaped(tmp_path):
    run = write_run(tmp_path / "run", "<script>alert(1)", 0, until=2, probes=False)
    text = write_report([run], tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert r"\u003cscript>alert(1)" in text  # in the data of the curves
    assert "&lt;script&gt;alert(1)-s0" in text
    assert all("<script" not in image for image in Page(text).images())


def test_a_run_that_has_only_begun_is_shown_as_far_as_it_is(tmp_path):
    run = write_run(tmp_path / "demo" / "softmax-s0", "softmax", 0, until=120, probes=False)
    (run.root / "data_manifest.json").unlink()
    done = write_run(tmp_path / "demo" / "sigmoid-s0", "sigmoid", 0, probes=False)
    page = Page(write_report([run, done], tmp_path / "report.html").read_text())
    (headings,) = [row for row in page.rows if "tokens (unequal)" in row]
    states, row = [row for row in page.rows if row[0] == "softmax-s0"][:2]
    assert states[1:5] == ["running", "12%", "120", "1,000"]
    assert row[headings.index("tokens (unequal)")] == "245,760"
    assert f"{run.series('val/loss')[1][-1]:.4f}" in row
    assert "data_manifest.json: softmax-s0" in page.text
    (probes,) = [item for item in page.items if "sinkpretrain probe RUN" in item]
    assert {"effective_rank", "attention_map", "super_neurons"} < set(probes.partition(":")[0].split(", "))
    reasons = [item for item in page.items if "no record; " in item]
    assert len(reasons) == 6  # of probes, of each intervention, of a head search, of an evaluation
    missing = "isolate_position: no record; make it with sinkpretrain intervene RUN --with isolate_position"
    assert missing in page.items
    assert "<h2>Interventions" not in page.source


def test_a_run_without_any_record_has_a_page(tmp_path):
    run = Run(tmp_path / "empty")
    run.create(config("softmax", 0))
    assert "Not drawn" in Page(write_report([run], tmp_path / "report.html").read_text()).text


def test_no_runs_and_altered_records_are_refused(tmp_path):
    with pytest.raises(DataError, match="no runs"):
        write_report([], tmp_path / "report.html")
    run = write_run(tmp_path / "run", "softmax", 0, until=2)
    (run.root / "environment.json").write_text("{")
    with pytest.raises(DataError, match=r"environment\.json"):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
