"""A model from a stranger: none of its code is run, nothing outside of it is read, its sizes are checked first."""

import json
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import evil
import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
CODE = "import os\nos.mkdir({marker!r})\n"
HOSTILE_TEMPLATES = (
    "{{ cycler.__init__.__globals__.os.mkdir(MARKER) }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{% for i in range(10 ** 12) %}x{% endfor %}",
    "{{ messages.append(1) }}",
    "{{ 1 / 0 }}",
    "{{ raise_exception('no') }}",
)


@pytest.fixture
def within():
    """Run a command in a process of its own, in bounded memory and time: (exit code, last line of stderr)."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    def run(*arguments, seconds=60):
        command = [sys.executable, "-m", "sinkpretrain", *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT, preexec_fn=limit)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended.returncode, (ended.stderr.strip().splitlines() or [""])[-1]

    return run


def test_code_beside_a_llama_is_left_alone(theirs, tmp_path, marker, rewrite, capsys):
    from sinkpretrain.cli import run

    (theirs / "evil.py").write_text(CODE.format(marker=str(marker)))
    own = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
    rewrite(theirs / "config.json", auto_map=own)
    rewrite(theirs / "tokenizer_config.json", auto_map=own)
    assert run(["import", str(theirs), str(tmp_path / "run")]) == 0
    assert not list((tmp_path / "run").rglob("*.py"))


@pytest.mark.parametrize("changes", [{"tokenizer_class": "EvilTokenizer"}, {"tokenizer_class": "os"}])
def test_a_tokenizer_of_its_own(theirs, tmp_path, marker, rewrite, capsys, changes):
    from sinkpretrain.cli import run

    (theirs / "evil.py").write_text(CODE.format(marker=str(marker)))
    rewrite(theirs / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, **changes)
    assert run(["import", str(theirs), str(tmp_path / "run")]) in (0, 3)
    assert "Traceback" not in capsys.readouterr().err


def test_an_architecture_of_its_own(theirs, tmp_path, marker, rewrite, refused):
    (theirs / "evil.py").write_text(CODE.format(marker=str(marker)))
    rewrite(theirs / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    assert "model_type 'evil' is not one of" in refused("import", theirs, tmp_path / "run", code=2)


@pytest.mark.parametrize("make", [evil.pickled, evil.saved_by_torch])
def test_pickled_weights(theirs, tmp_path, marker, refused, make):
    (theirs / "model.safetensors").unlink()
    make(theirs / "pytorch_model.bin", marker)
    assert "never read" in refused("import", theirs, tmp_path / "run", code=3)
    make(theirs / "model.safetensors", marker)
    assert "theirs" in refused("import", theirs, tmp_path / "run", code=3)


def test_an_adapter(theirs, tmp_path, marker, refused):
    evil.pickled(theirs / "adapter_model.bin", marker)
    (theirs / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../elsewhere"}))
    assert "adapter_config.json" in refused("import", theirs, tmp_path / "run", code=2)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "tokenizer_config.json"])
def test_a_link_out_of_the_folder(theirs, tmp_path, refused, name):
    (theirs / name).rename(tmp_path / "secret")
    (theirs / name).symlink_to(tmp_path / "secret")
    said = refused("import", theirs, tmp_path / "run", code=3)
    assert f"{name}: leads out of" in said


def test_links_of_the_hub_client_are_followed(theirs, tmp_path, capsys):
    from sinkpretrain.cli import run

    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1234"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(theirs.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert run(["import", str(snapshot), str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("name", ["../secret.safetensors", "{folder}/secret.safetensors", "sub/x.safetensors", 5, ".."])
def test_an_index_that_leads_elsewhere(theirs, tmp_path, refused, name):
    tensors = load_file(theirs / "model.safetensors")
    for path in (tmp_path / "secret.safetensors", theirs / "sub" / "x.safetensors"):
        path.parent.mkdir(exist_ok=True)
        save_file(tensors, path, metadata={"format": "pt"})
    (theirs / "model.safetensors").rename(theirs / "model-00001-of-00001.safetensors")
    name = name.format(folder=tmp_path) if isinstance(name, str) else name
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}
    (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in refused("import", theirs, tmp_path / "run", code=3)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[]", '{"weight_map": 3}', "\x00", '{"a": ' * 2000])
def test_an_index_that_is_none(theirs, tmp_path, refused, text):
    (theirs / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refused("import", theirs, tmp_path / "run", code=3)


SIZES = {
    "num_hidden_layers": 10**9,
    "hidden_size": 2**40,
    "intermediate_size": 10**12,
    "vocab_size": 10**13,
    "num_attention_heads": 10**9,
}


@pytest.mark.parametrize("key", SIZES)
def test_absurd_sizes(theirs, tmp_path, rewrite, refused, key):
    rewrite(theirs / "config.json", **{key: SIZES[key]})
    assert "theirs" in refused("import", theirs, tmp_path / "run", code=2 if key == "hidden_size" else 3)


@pytest.mark.slow
def test_absurd_sizes_in_bounded_memory_and_time(theirs, tmp_path, rewrite, within):
    rewrite(theirs / "config.json", num_hidden_layers=10**9)
    code, said = within("import", theirs, tmp_path / "run")
    assert code == 3
    assert "config.json: its weights are not those of its configuration: that asks for" in said


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "rms_norm_eps"]
)
@pytest.mark.parametrize("value", [-1, 0, "many", []])
def test_nonsense_for_sizes(theirs, tmp_path, rewrite, capsys, key, value):
    from sinkpretrain.cli import run

    rewrite(theirs / "config.json", **{key: value})
    assert run(["import", str(theirs), str(tmp_path / "run")]) in (2, 3)
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("sinkpretrain: ")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 50, '{"a": ' * 100_000, "null", "3", "\x00\x01", '"text"', "{}"])
def test_files_of_nonsense(theirs, tmp_path, capsys, name, text):
    from sinkpretrain.cli import run

    (theirs / name).write_text(text)
    code = run(["import", str(theirs), str(tmp_path / "run")])
    assert code in (2, 3) or (name == "tokenizer_config.json" and code == 0)
    if code:
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("sinkpretrain: ")


@pytest.mark.parametrize("counts", [(2**60, 1), (1, 2**60), (2**31, 2**31), (0, 0)])
def test_a_gguf_file_of_absurd_counts(tmp_path, refused, counts):
    path = tmp_path / "evil.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"\x00" * 64)
    assert "evil.gguf" in refused("import", path, tmp_path / "run", code=2 if counts == (0, 0) else 3)


@pytest.mark.parametrize("template", HOSTILE_TEMPLATES)
def test_a_hostile_chat_template(marker, template):
    from sinkpretrain.errors import DataError
    from sinkpretrain.evaluation.chat import ChatTemplate

    hostile = ChatTemplate(text=template.replace("MARKER", f"'{marker}'"), bos="", eos="")
    with pytest.raises(DataError, match="chat template cannot render"):
        hostile.render([{"role": "user", "content": "Hello"}])
