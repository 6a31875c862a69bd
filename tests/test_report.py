"""The report page: complete, honest, self-contained, and safe to open whatever the runs are called."""

import base64
import re
import statistics
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from figures.synthetic_runs import (
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
from sinkpretrain.runs import Run

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """Tags with their attributes, rows of table cells, list items, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.items, self.text, self.source = [], [], [], "", text
        self.in_cell = self.in_item = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "li":
            self.items.append("")
        self.in_cell, self.in_item = tag in ("td", "th"), tag == "li"

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data
        if self.in_item:
            self.items[-1] += data

    def handle_endtag(self, tag):
        self.in_cell = self.in_item = False

    def images(self):
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        return [base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() for source in sources]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    return write_report(runs, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text())


def test_the_page_loads_nothing(path, page):
    assert path.stat().st_size < 10e6
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    source = path.read_text()
    assert not re.search(r"https?://|@import|url\(", source)
    assert "$" not in page.text


def test_each_run_has_its_recorded_numbers(runs, page):
    headings, *rows = [row for row in page.rows if len(row) == len(page.rows[0])]
    for run in runs:
        config, last = run.config(), run.metrics()[-1]
        (row,) = [row for row in rows if row[0] == f"{config.variant}-s{config.seed}"]
        cells = dict(zip(headings, row, strict=True))
        assert cells["validation loss (nats a token)"] == f"{last['val/loss']:.4f}"
        assert cells["perplexity"] == f"{last['val/perplexity']:.2f}"
        assert cells["bits a byte"] == f"{last['val/bits_per_byte']:.4f}"
        assert cells["nats below it"] == f"{UNIGRAM_ENTROPY - last['val/loss']:.4f}"
        assert cells["tokens"] == "2,048,000"
        assert cells["parameters"] == "1,500,000"
        assert cells["FLOPs a token"] == "9.1 M"
        assert cells["state"] == "done"


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


def test_figures_follow_the_argument_and_the_screen(page):
    alternatives = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alternatives == [
        "positional_variance by tokens",
        "output_alignment by tokens",
        "super_neurons by tokens",
        "gate_similarity by tokens",
        "down_projection by tokens",
        "dominance_ratio by tokens",
        "norm_direction by tokens",
        "key_alignment by tokens",
        "representation_norm by tokens",
        "first_token_attention by tokens",
        "attention_map by tokens",
        "attention_map_layers by tokens",
        "score_distribution by tokens",
        "sink_positions by tokens",
        "sink_tokens by tokens",
        "isolate_position by tokens",
        "amplify_variance by tokens",
        "super_neuron_interventions by tokens",
        "act_heads by tokens",
        "act_maps by tokens",
        "act_gains by tokens",
        "sink_rate by tokens",
        "first_token_emergence by tokens",
        "emergence by tokens",
        "effective_rank by tokens",
        "head_balance by tokens",
        "validation_loss by tokens",
        "validation_loss by step",
        "validation_loss by seconds",
        "train_loss by tokens",
    ]
    assert {f"{name} by tokens" for name in registry.names("figures")} <= set(alternatives)
    assert all("</svg>" in image and "prefers-color-scheme: dark" in image for image in page.images())
    assert "Not drawn" not in page.text


def test_differences_environment_and_commands_are_listed(runs, page):
    assert ["optimizer.learning_rate", "0.001", "0.001", "0.002"] in page.rows
    assert ["key", "softmax-s0, softmax-s1", "sigmoid-s0, sigmoid-s1", "head_rmsnorm-s0, head_rmsnorm-s1"] in page.rows
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
    drawn = [attributes["alt"].split()[0] for tag, attributes in page.tags if tag == "img"]
    assert drawn == [
        "first_token_attention",
        "attention_map",
        "attention_map_layers",
        "sink_tokens",
        "isolate_position",
    ]


def test_the_template_is_part_of_the_installed_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    (template,) = (ROOT / "sinkpretrain").rglob("*.html")
    assert any(template.relative_to(ROOT / "sinkpretrain").match(pattern) for pattern in packages["sinkpretrain"])


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "no claim"), (2, "no claim"), (3, "are not a verdict")])
def test_the_verdict_needs_three_seeds(seeds, verdict, tmp_path):
    runs = []
    for variant in ("softmax", "sigmoid"):
        for seed in range(seeds):
            run = Run(tmp_path / "demo" / f"{variant}-s{seed}")
            run.create(config(variant, seed))
            run.write_status("done")
            runs.append(run)
    text = Page(write_report(runs, tmp_path / "report.html").read_text()).text
    assert verdict in text
    assert ("no claim" in text) == (seeds < 3)
    runs[0].write_status("failed")
    assert "no claim" in write_report(runs, tmp_path / "report.html").read_text()


def test_names_are_escaped(tmp_path):
    run = write_run(tmp_path / "run", "<script>alert(1)</script>", 0, until=2)
    text = write_report([run], tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;-s0" in text
    assert all("<script" not in image for image in Page(text).images())


def test_a_run_that_has_only_begun_is_shown_as_far_as_it_is(tmp_path):
    run = write_run(tmp_path / "demo" / "softmax-s0", "softmax", 0, until=120, probes=False)
    (run.root / "data_manifest.json").unlink()
    done = write_run(tmp_path / "demo" / "sigmoid-s0", "sigmoid", 0, probes=False)
    page = Page(write_report([run, done], tmp_path / "report.html").read_text())
    assert "tokens (unequal)" in page.rows[0]
    row = next(row for row in page.rows if row[0] == "softmax-s0")
    assert row[1:3] == ["running, 12%", "245,760"]
    assert f"{run.series('val/loss')[1][-1]:.4f}" in row
    assert "data_manifest.json: softmax-s0" in page.text
    (probes,) = [item for item in page.items if "sinkpretrain probe RUN" in item]
    assert {"effective_rank", "attention_map", "super_neurons"} < set(probes.partition(":")[0].split(", "))
    assert len(page.items) == 6  # of probes, of each intervention, of a head search, of an evaluation
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
