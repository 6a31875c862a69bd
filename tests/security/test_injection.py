"""The report of a stranger's runs: their texts are shown, and are never part of the page's code or commands."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import yaml

from sinkpretrain.cli import run as command
from sinkpretrain.report.commands import RECIPE_END
from sinkpretrain.runs import Run

EVIL = "</script><img src=x onerror=alert(1)><!--\"'>"
NAME = EVIL.replace("/", "")  # where the other is refused


class Found(HTMLParser):
    """Elements and attributes of a page that could run something."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.handlers, self.sources = 0, [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.sources += [value for name, value in attributes if name in ("src", "href", "action", "srcdoc")]


@pytest.fixture
def hostile(small_run, tmp_path):
    """An experiment of two runs whose every name and text is hostile."""
    root = tmp_path / "stranger"
    for seed in (0, 1):
        run = Run(shutil.copytree(small_run.root, root / f"arm-s{seed}"))
        content = yaml.safe_load(run.config_path.read_text())
        content |= {"name": NAME, "variant": f"{NAME}{seed}"}
        run.config_path.write_text(yaml.safe_dump(content))
        (run.root / "environment.json").write_text(json.dumps({"created": EVIL, EVIL: EVIL, "versions": {EVIL: EVIL}}))
        run.write_status("done", **{EVIL: EVIL})
        about = {"position": 0, "tokens": 32, "sequences": 4, "seeds": [0], "text": EVIL, "bos": EVIL, "layers": [0]}
        rows = [{"condition": name, "strength": 1.0, "position": 0, "seed": 0} for name in ("none", EVIL)]
        quantities = ("received", "first_token_attention", "sink_rate", "dominance", "neuron_peak", "entropy_others")
        rows = [{**row, **dict.fromkeys(quantities, 1.0)} for row in rows]
        run.intervention_path(NAME).parent.mkdir()
        run.intervention_path(NAME).write_text(json.dumps({"about": about, "rows": rows}))
    runs = [{"folder": f"arm-s{seed}", "variant": NAME, "seed": seed, "learning_rate": 0.01} for seed in (0, 1)]
    record = {"name": NAME, "question": EVIL, "baseline": f"{NAME}0", "source": EVIL, "runs": runs}
    (root / "experiment.json").write_text(json.dumps(record))
    return root


def test_texts_of_a_stranger_stay_texts(hostile, small_run, tmp_path, capsys):
    assert command(["report", str(small_run.root), "--out", str(tmp_path / "usual.html")]) == 0
    assert command(["report", str(hostile)]) == 0, capsys.readouterr().err
    page = (hostile / "report.html").read_text()
    usual, found = Found((tmp_path / "usual.html").read_text()), Found(page)
    assert "&lt;img src=x onerror" in page, "the texts are shown"
    assert found.scripts == usual.scripts == 3
    assert found.handlers == usual.handlers == []
    assert all(source.startswith(("#", "data:image/svg+xml,", "data:,")) for source in found.sources)
    data = re.search(r'<script id="curves-data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data[1])["arms"][0]["name"].startswith(NAME[:20])


def test_pictures_of_a_stranger_hold_no_code(hostile):
    assert command(["plot", "validation_loss", str(hostile)]) == 0
    for path in (hostile / "figures").glob("*.svg"):
        assert not re.search(r"<script|<img", re.sub("<!--.*?-->", "", path.read_text(), flags=re.DOTALL))


def commands_of(page):
    class Pre(HTMLParser):
        inside, text = False, ""

        def handle_starttag(self, tag, attributes):
            self.inside |= tag == "pre"

        def handle_endtag(self, tag):
            self.inside &= tag != "pre"

        def handle_data(self, data):
            self.text += data if self.inside else ""

    reader = Pre()
    reader.feed(page.partition('id="to-reproduce"')[2])
    return reader.text


@pytest.mark.parametrize(
    "text", [f"x\n{RECIPE_END}\ntouch MARKER\n", "'; touch MARKER; '", "$(touch MARKER)", "`touch MARKER`"]
)
def test_commands_to_reproduce_are_those_of_the_project(hostile, marker, capsys, text):
    text = text.replace("MARKER", str(marker))
    for root in hostile.glob("arm-*"):
        for recipe in (text, {"sources": [{"name": text}], text: text}):
            (root / "data_manifest.json").write_text(json.dumps({"recipe": recipe}))
    record = json.loads((hostile / "experiment.json").read_text()) | {"source": text}
    (hostile / "experiment.json").write_text(json.dumps(record))
    assert command(["report", str(hostile)]) == 0, capsys.readouterr().err
    commands = commands_of((hostile / "report.html").read_text())
    assert "touch" in commands
    ended = subprocess.run(["bash", "-c", f"sinkpretrain() {{ :; }}\n{commands}"], cwd=hostile, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert not marker.exists()
