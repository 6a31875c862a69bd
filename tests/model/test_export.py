"""Models out: every attention variant as a folder that transformers reads without this package.

Shapes use B batch, T positions.
"""

import importlib.util
import itertools
import json

import pytest
import torch
from hub_models import assert_same_logits

from sinkpretrain import checkpoints, registry
from sinkpretrain.config import AttentionConfig, Config, DataConfig, ModelConfig
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.files import write_json
from sinkpretrain.model import exporting, model_file
from sinkpretrain.model.exporting import export_hf
from sinkpretrain.model.importing import import_model
from sinkpretrain.model.llama import Llama
from sinkpretrain.model.load import load_model
from sinkpretrain.runs import Run

transformers = pytest.importorskip("transformers", reason="models of the hub need the extra 'hub'")

OPTIONS = {
    "sigmoid": [{"bias": "minus_log_context"}, {"normalize": True}],
    "kv_bias": [{"value": "learned"}],
    "gate": [{"granularity": "head"}],
    "head_rmsnorm": [{"gain": "per_head"}, {"gain": "none"}],
}
# Every kind by its name, and with every option that changes what it does.
WEIGHTS = [{"name": n, **o} for n in registry.names("attention.weights") for o in [{}, *OPTIONS.get(n, [])]]
OUTPUT = [{"name": n, **o} for n in registry.names("attention.output") for o in [{}, *OPTIONS.get(n, [])]]
SOFTMAX = {"name": "softmax"}
VARIANTS = [
    *({"weights": weights, "output": []} for weights in WEIGHTS if weights != SOFTMAX),
    *({"weights": SOFTMAX, "output": [output]} for output in OUTPUT),
    {"weights": {"name": "learned_sink"}, "output": [{"name": "gate"}, {"name": "head_rmsnorm"}]},
]


def label(attention):
    entries = [attention["weights"], *attention["output"]]
    return " ".join("-".join(str(value) for value in entry.values()) for entry in entries)


every_variant = pytest.mark.parametrize("attention", VARIANTS, ids=label)


@pytest.fixture
def make_run(tmp_path, bpe):
    """A run folder of a model with random weights, none of them at the value it starts with."""

    def make(attention, bos="none", **shape):
        sizes = dict(vocab_size=320, n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, d_ff=48, context_length=300)
        config = Config(
            global_batch_size=1,
            micro_batch_size=1,
            model=ModelConfig(**{**sizes, **shape}, attention=attention),
            data=DataConfig(bos=bos),
        )
        run = Run(tmp_path / "run")
        run.create(config)
        model, generator = Llama(config.model), torch.Generator().manual_seed(7)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        checkpoints.write(run.checkpoints, checkpoints.Checkpoint(step=4, model=model.state_dict()), keep=2)
        run.tokenizer_path.write_text(bpe)
        write_json(run.source_path, {"source": "invented", "bos_id": 0, "eos_id": 0})
        return run

    return make


@pytest.fixture
def reread(monkeypatch, tmp_path):
    """A run's model as the exported files give it in this process: `reread(run)`; quicker than a fresh one."""

    def read(run):
        monkeypatch.setattr(exporting, "_check", lambda *arguments: None)
        folder = export_hf(run, tmp_path / "exported")
        spec = importlib.util.spec_from_file_location("exported_model", folder / "modeling_sinkpretrain.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(importlib.import_module("sys").modules, "exported_model", module)
        spec.loader.exec_module(module)
        return module.SinkpretrainForCausalLM.from_pretrained(folder).eval()

    return read


@every_variant
def test_the_exported_files_give_the_same_logits(make_run, reread, attention):
    run = make_run(attention)
    theirs = reread(run)
    ours, _ = load_model(run.root)
    assert_same_logits(ours, theirs)
    named = theirs.config.sinkpretrain_attention
    assert named["weights"]["name"] == attention["weights"]["name"]
    assert len(named["output"]) == len(attention["output"])


@every_variant
def test_a_cache_changes_no_token(make_run, reread, attention):
    theirs = reread(make_run(attention))
    tokens_BT = torch.randint(1, 320, (2, 9), generator=torch.Generator().manual_seed(2))
    given = {"attention_mask": torch.ones_like(tokens_BT), "pad_token_id": 0, "do_sample": False}
    given |= {"max_new_tokens": 12, "min_new_tokens": 12, "return_dict_in_generate": True, "output_logits": True}
    without = theirs.generate(tokens_BT, use_cache=False, **given)
    for cached in ({"use_cache": True}, {"use_cache": True, "cache_implementation": "static"}):
        found = theirs.generate(tokens_BT, **given, **cached, **({"disable_compile": True} if len(cached) > 1 else {}))
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(without.logits), rtol=0, atol=1e-5)
        assert torch.equal(found.sequences, without.sequences)


@pytest.mark.parametrize("side", ["left", "right"])
@every_variant
def test_padding_changes_no_logit(make_run, reread, attention, side):
    theirs = reread(make_run(attention))
    tokens_BT = torch.randint(1, 320, (1, 20), generator=torch.Generator().manual_seed(3))
    before, after = (5, 0) if side == "left" else (0, 5)
    padded_BT = torch.nn.functional.pad(tokens_BT, (before, after))
    mask_BT = torch.nn.functional.pad(torch.ones_like(tokens_BT), (before, after))
    with torch.no_grad():
        logits = theirs(padded_BT, attention_mask=mask_BT).logits
        expected = theirs(tokens_BT).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, before : before + 20], expected, rtol=0, atol=2e-5)


def test_a_fresh_process_without_this_package_reads_the_folder(make_run, tmp_path):
    """The whole of `export_hf`: it reads the folder so itself, and fails otherwise."""
    run = make_run({"weights": {"name": "kv_bias", "value": "learned"}, "output": [{"name": "gate"}]}, bos="window")
    folder = export_hf(run, tmp_path / "models" / "exported")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "sinkpretrain"
    assert config["sinkpretrain_attention"]["output"] == [{"name": "gate", "granularity": "element"}]
    assert "from sinkpretrain." not in (folder / "modeling_sinkpretrain.py").read_text()
    assert {path.name for path in folder.parent.iterdir()} == {"exported"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("if")["input_ids"][0] == 0, "training put the separator in front"


@pytest.mark.slow
@every_variant
def test_every_variant_is_read_in_a_fresh_process(make_run, tmp_path, attention):
    assert export_hf(make_run(attention), tmp_path / "exported").is_dir()


LLAMA3 = {"name": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4, "original_context_length": 64}


@pytest.mark.parametrize(
    "shape",
    [{}, {"tie_embeddings": True, "n_kv_heads": 4}, {"rope_scaling": LLAMA3}],
    ids=["grouped", "tied", "llama3"],
)
def test_softmax_is_a_plain_llama_and_comes_back(make_run, tmp_path, monkeypatch, shape):
    monkeypatch.setattr(exporting, "_check", lambda *arguments: None)
    run = make_run({"weights": SOFTMAX}, **shape)
    folder = export_hf(run, tmp_path / "exported", step=4)
    assert not (folder / "modeling_sinkpretrain.py").exists()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(theirs) is transformers.LlamaForCausalLM
    ours, tokenizer = load_model(run.root)
    assert_same_logits(ours, theirs)
    text = "The if statement is used for conditional execution."
    assert transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == tokenizer.encode(text).ids
    again, _ = load_model(import_model(folder, tmp_path / "again").root)
    for (name, parameter), other in zip(ours.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, other), name
    assert again.config == ours.config


def tampered(name):
    """A file of the exported folder that is written wrong."""
    original = getattr(exporting, name)

    def write(folder, *arguments):
        original(folder, *arguments)
        if name == "_write_config":
            path = folder / "config.json"
            path.write_text(path.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 9000.0'))
        else:
            path = folder / "tokenizer.json"
            content = json.loads(path.read_text())
            content["pre_tokenizer"]["add_prefix_space"] = True
            path.write_text(json.dumps(content))

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [("_write_config", "exported model's logits differ from ours"), ("_write_tokenizer", "gives other tokens")],
)
def test_a_folder_that_says_something_else_is_not_left(make_run, tmp_path, monkeypatch, name, message):
    run = make_run({"weights": {"name": "sigmoid"}})
    monkeypatch.setattr(exporting, name, tampered(name))
    with pytest.raises(DataError, match=f"exported: .*{message}"):
        export_hf(run, tmp_path / "exported")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_model_file_that_cannot_be_read_is_not_left(make_run, tmp_path, monkeypatch):
    run = make_run({"weights": {"name": "sigmoid"}})
    monkeypatch.setattr(exporting, "model_file", lambda attention: "from sinkpretrain.config import ModelConfig\n")
    with pytest.raises(DataError, match="a fresh process cannot read the exported folder .*sinkpretrain"):
        export_hf(run, tmp_path / "exported")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from sinkpretrain.taps import Tap\n", "'from sinkpretrain.taps import Tap' cannot go into"),
        ("import sinkpretrain.taps\n", "'import sinkpretrain.taps' cannot go into"),
        ("from ..base import Mask\n", "'from ..base import Mask' cannot go into"),
        ("from sinkpretrain.attention.base import Mask as M\n", "Mask as M' cannot go into"),
        ("def f():\n    from sinkpretrain.attention.base import Mask\n", "is not at the top"),
        ("class Mask: pass\n", "defines Mask, as sinkpretrain.attention.base does"),
    ],
)
def test_a_kind_that_cannot_be_inlined_is_refused(monkeypatch, text, message):
    read = model_file.inspect.getsource
    monkeypatch.setattr(
        model_file.inspect, "getsource", lambda module: text if module.__name__.endswith("sigmoid") else read(module)
    )
    with pytest.raises(ConfigError, match=rf"sinkpretrain.attention.weights.sigmoid: .*{message}"):
        model_file.model_file(AttentionConfig(weights={"name": "sigmoid"}))


def test_any_two_kinds_fit_into_one_file():
    for weights, *output in itertools.product(
        registry.names("attention.weights"), *[registry.names("attention.output")] * 2
    ):
        compile(
            model_file.model_file(AttentionConfig(weights={"name": weights}, output=[{"name": n} for n in output])),
            "exported",
            "exec",
        )


def test_a_folder_that_is_taken_and_a_folder_without_a_run(make_run, tmp_path):
    run = make_run({"weights": SOFTMAX})
    with pytest.raises(ConfigError, match="run: exists and is not empty"):
        export_hf(run, run.root)
    with pytest.raises(ConfigError, match="is not a run folder"):
        export_hf(tmp_path, tmp_path / "exported")
