"""Models in: Hugging Face folders of every kind that is accepted, GGUF files, and what is refused.

Shapes use B batch, T positions, V vocabulary.
"""

import copy
import json
import shutil

import pytest
import torch
from hub_models import LLAMA3, assert_same_logits
from safetensors.torch import load_file, save_file

import sinkpretrain as sp
from sinkpretrain import checkpoints
from sinkpretrain.errors import ConfigError, DataError, ResumeError
from sinkpretrain.model import hub, hub_source
from sinkpretrain.model.importing import import_model
from sinkpretrain.runs import Run
from sinkpretrain.training.train import train

pytest.importorskip("transformers", reason="models of the hub need the extra 'hub'")

KINDS = [
    pytest.param({}, id="grouped"),
    pytest.param({"num_key_value_heads": 4, "tie_word_embeddings": True}, id="tied"),
    pytest.param({"rope_parameters": {"rope_type": "llama3", "rope_theta": 100.0, **LLAMA3}}, id="llama3"),
    pytest.param({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e3, "factor": 2.0}}, id="linear"),
    pytest.param({"kind": "Mistral", "sliding_window": 40}, id="mistral"),
    pytest.param({"kind": "Mistral", "sliding_window": None, "rms_norm_eps": 1e-3}, id="mistral without window"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_becomes_a_run_that_says_the_same(hub_folder, tmp_path, kind):
    folder, theirs = hub_folder(**kind)
    run = import_model(folder, tmp_path / "models" / "theirs")
    ours, tokenizer = sp.load_model(run.root)
    assert not ours.training
    assert_same_logits(ours, theirs)
    assert tokenizer.decode(tokenizer.encode("The if statement").ids) == "The if statement"
    direct, _ = sp.load_model(folder)
    assert_same_logits(direct, theirs)
    assert ours.config == direct.config


def test_what_the_folder_of_an_import_holds(hub_folder, tmp_path):
    folder, theirs = hub_folder(kind="Mistral", sliding_window=40)
    run = import_model(str(folder), tmp_path / "models" / "theirs")
    config, record = run.config(), json.loads(run.source_path.read_text())
    assert (config.name, config.variant, config.data.bos) == ("models", "theirs", "none")
    assert config.model.context_length == 40
    assert record["sliding_window"].startswith("40 tokens")
    assert run.status() == {"state": "done", "step": 0, "parameters": theirs.num_parameters()}
    assert checkpoints.newest_valid(run.checkpoints) == (0, [])
    assert record["source"] == str(folder)
    assert (record["kind"], record["weights"], record["separator_id"]) == ("folder", "F32", 0)
    assert set(record["files_sha256"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert 0 <= record["parity"]["max_abs_logit_error"] <= 1e-4


def test_a_tokenizer_that_begins_with_a_bos_is_recorded_and_adds_none(hub_folder, tmp_path):
    folder, _ = hub_folder(begins_with_bos=True)
    run = import_model(folder, tmp_path / "run")
    assert run.config().data.bos == "window"
    assert json.loads(run.source_path.read_text())["bos_id"] == 0
    for source in (run.root, folder):
        _, tokenizer = sp.load_model(source)
        assert tokenizer.encode("if").ids == tokenizer.encode("if", add_special_tokens=False).ids
        assert 0 not in tokenizer.encode("<|endoftext|>").ids


def test_narrow_weights_are_named_and_widened(hub_folder, tmp_path):
    folder, theirs = hub_folder()
    copy.deepcopy(theirs).bfloat16().save_pretrained(folder)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.bfloat16().float()
    run = import_model(folder, tmp_path / "run")
    assert json.loads(run.source_path.read_text())["weights"] == "BF16"
    ours, _ = sp.load_model(run.root)
    assert ours.head.weight.dtype == torch.float32
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not one of llama, mistral"),
        ({"model_type": "qwen2"}, "model_type 'qwen2' is not one of llama, mistral"),
        ({"model_type": "opt"}, "model_type 'opt' is not one of"),
        ({"model_type": "unheard_of", "auto_map": {"AutoConfig": "x.Y"}}, "model_type 'unheard_of' is not one of"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and a model that can be imported has silu"),
        ({"head_dim": 16}, "head_dim is 16, and a model that can be imported has None or 8"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "RoPE scaling 'yarn'",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config is"),
        ({"num_hidden_layers": 3}, "its weights are not those of its configuration: it lacks model.layers.2"),
        ({"num_hidden_layers": 1}, "its weights are not those of its configuration: it also has model.layers.1"),
    ],
)
def test_a_model_that_is_no_plain_llama_is_refused(hub_folder, tmp_path, changed, message):
    folder, _ = hub_folder()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        import_model(folder, tmp_path / "run")
    assert "config.json" in str(caught.value)
    assert not list(tmp_path.glob("*run*"))


def test_biases_that_the_configuration_hides_are_refused(hub_folder, tmp_path):
    folder, _ = hub_folder()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"it also has model.layers.0.self_attn.q_proj.bias"):
        sp.load_model(folder)


def test_pickled_weights_are_never_read(hub_folder):
    folder, theirs = hub_folder()
    (folder / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"has no \*.safetensors \(found: pytorch_model.bin\)"):
        sp.load_model(folder)


def test_files_that_are_gone_or_broken_are_named(hub_folder, tmp_path):
    folder, _ = hub_folder()
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"cut/config.json: cannot be read as a JSON object"):
        sp.load_model(tmp_path / "cut")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(DataError, match="theirs: transformers cannot read it"):
        sp.load_model(folder)


def test_other_logits_leave_nothing_behind(hub_folder, tmp_path, monkeypatch):
    folder, _ = hub_folder()
    gate, up = hub.IN_BLOCK["mlp.w_gate.weight"], hub.IN_BLOCK["mlp.w_up.weight"]
    monkeypatch.setitem(hub.IN_BLOCK, "mlp.w_gate.weight", up)
    monkeypatch.setitem(hub.IN_BLOCK, "mlp.w_up.weight", gate)
    with pytest.raises(DataError, match="our logits differ from those of transformers by"):
        import_model(folder, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"theirs"}


def test_a_folder_that_is_taken_is_left_alone(hub_folder, tmp_path):
    folder, _ = hub_folder()
    (tmp_path / "run").mkdir()
    import_model(folder, tmp_path / "run")
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(ConfigError, match="run: exists and is not empty"):
        import_model(folder, tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_an_import_cannot_be_trained_on(hub_folder, tmp_path):
    folder, _ = hub_folder()
    run = import_model(folder, tmp_path / "run")
    with pytest.raises(ResumeError, match="holds an imported model, which has no data and no optimizer state"):
        train(run.config(), run.root, resume=True)
    assert Run.open(run.root).status()["state"] == "done"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./gone", r"./gone: does not exist; give a run folder, a Hugging Face folder, a GGUF file, or a Hugging Face"),
        ("gone.gguf", "gone.gguf: does not exist"),
        ("folder/gone", "folder/gone: does not exist"),
        ("a/b/c", "a/b/c: does not exist"),
        ("folder", "folder: is not a run folder .* nor a Hugging Face folder"),
        ("folder/text", "folder/text: is a file, but not GGUF"),
    ],
)
def test_what_is_no_source_is_told_what_is(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "text").write_text("text")
    with pytest.raises(ConfigError, match=message):
        sp.load_model(source)


def test_arguments_without_a_meaning_are_refused(hub_folder):
    folder, _ = hub_folder()
    with pytest.raises(ConfigError, match="step: 3 has a meaning for a run folder only"):
        sp.load_model(folder, step=3)
    with pytest.raises(ConfigError, match="revision: 'main' has a meaning for a hub id"):
        hub_source.resolve(folder, "main")


@pytest.mark.parametrize(
    ("source", "revision", "asked"),
    [("owner/name", None, None), ("owner/na.me@v1.0", None, "v1.0"), ("owner/name@v1", "main", "main")],
)
def test_a_hub_id_is_fetched_at_its_revision(hub_folder, monkeypatch, source, revision, asked):
    import huggingface_hub

    folder, _ = hub_folder()
    calls = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **given: calls.append((name, given)) or str(folder)
    )
    found = hub_source.resolve(source, revision)
    name, given = calls[0]
    assert (name, given["revision"]) == (source.partition("@")[0], asked)
    assert (found.kind, found.path, found.commit) == ("hub", folder, folder.name)
    assert "*.bin" not in given["allow_patterns"]


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="owner/no-such-model: there is no such path, and as a hub id") as caught:
        sp.load_model("owner/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_named(hub_folder, monkeypatch):
    folder, _ = hub_folder()
    monkeypatch.setattr(hub_source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs transformers; install the extra with scripts/install hub"):
        sp.load_model(folder)
