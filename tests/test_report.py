"""The report page: complete, honest, self-contained, and safe to open whatever the runs are called."""

import base64
import re
from html.parser import HTMLParser

import pytest
from figures.synthetic_runs import UNIGRAM_ENTROPY, config, write_run, write_runs

from sinkpretrain.errors import DataError
from sinkpretrain.report import write_report
from sinkpretrain.runs import Run


class Page(HTMLParser):
    """Tags with their attributes, rows of table cells, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.text, self.in_cell = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.in_cell = tag in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self.in_cell = False

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
        "dominance_ratio by tokens",
        "representation_norm by tokens",
        "first_token_attention by tokens",
        "sink_rate by tokens",
        "first_token_emergence by tokens",
        "effective_rank by tokens",
        "validation_loss by tokens",
        "validation_loss by step",
        "validation_loss by seconds",
        "train_loss by tokens",
    ]
    assert all("</svg>" in image and "prefers-color-scheme: dark" in image for image in page.images())
    assert "Not drawn" not in page.text


def test_differences_environment_and_commands_are_listed(runs, page):
    assert ["optimizer.learning_rate", "0.001", "0.001", "0.002"] in page.rows
    assert ["key", "softmax-s0, softmax-s1", "sigmoid-s0, sigmoid-s1", "head_rmsnorm-s0, head_rmsnorm-s1"] in page.rows
    assert '"torch": "2.13.0"' in page.text
    assert f"sinkpretrain train --config {runs[0].config_path} --out again/demo/softmax-s0" in page.text


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
    assert "effective_rank: a probe record: not recorded by demo/softmax-s0, demo/sigmoid-s0" in page.text


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
