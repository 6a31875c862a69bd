"""The README's commands are run as they are written, on fewer tokens; its Python too."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from sinkpretrain.cli import run
from sinkpretrain.mappings import merge

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines() if line.strip()]
HF_FOLDER = "exported/softmax"  # stands for the model that the README fetches
FEWER_TOKENS = ["--tokens", "8192", "--validation.windows", "4", "--probes.windows", "2"]


def test_the_two_commands_are_there():
    assert [words[0] for words in COMMANDS[:2]] == ["scripts/quickstart", "scripts/test"]
    assert all((ROOT / words[0]).stat().st_mode & 0o111 for words in COMMANDS[:2])
    assert all(words[0] == "sinkpretrain" for words in COMMANDS[2:])


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_every_verb_has_its_example():
    assert {words[1] for words in COMMANDS[2:]} == {
        *("prepare", "train", "sweep", "import", "export", "probe", "intervene", "plot", "report"),
        *("calibrate", "eval", "compare"),
    }
    assert "sinkpretrain doctor" in README


@pytest.mark.slow
def test_the_commands_work_as_written(tmp_path, prose_recipe, monkeypatch, capsys):
    """In a folder laid out as the checkout is, with another text behind `data/demo.yaml`: nothing is fetched."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data").mkdir()
    recipe = merge(yaml.safe_load(prose_recipe.read_text()), {})
    recipe["sources"][0]["path"] = str(prose_recipe.parent / "topics.jsonl")
    recipe["validation_fraction"] = 0.5  # the embedded tasks are made of held-out text
    (tmp_path / "data" / "demo.yaml").write_text(yaml.safe_dump(recipe))
    for words in COMMANDS[2:]:
        arguments = [HF_FOLDER if word.startswith("$(") else word for word in words[1:]]
        if arguments[0] in ("train", "sweep"):
            arguments = [*arguments, *FEWER_TOKENS]
        assert run(arguments) == 0, (words, capsys.readouterr().err)
    assert (tmp_path / "runs/quickstart/report.html").exists()
    assert (tmp_path / "runs/quickstart/figures/first_token_attention.png").exists()
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {"torch": torch})
    assert "torch.Size" in capsys.readouterr().out
