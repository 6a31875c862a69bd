"""GGUF files: tiny ones written as llama.cpp converts a Llama, and a real one."""

import json

import numpy as np
import pytest
import torch
from hub_models import LLAMA3, assert_same_logits

import sinkpretrain as sp
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.model.importing import import_model

pytest.importorskip("gguf", reason="GGUF files need the extra 'hub'")
pytest.importorskip("accelerate", reason="GGUF files need the extra 'hub'")


@pytest.mark.parametrize(
    "different", [{}, {"num_key_value_heads": 1, "tie_word_embeddings": True}], ids=["grouped", "tied"]
)
def test_a_file_becomes_a_run_that_says_the_same(gguf_file, tmp_path, different):
    path, theirs = gguf_file(**different)
    run = import_model(path, tmp_path / "run")
    ours, tokenizer = sp.load_model(run.root)
    assert_same_logits(ours, theirs)
    assert ours.config.tie_embeddings == theirs.config.tie_word_embeddings
    assert tokenizer.decode(tokenizer.encode("The if statement").ids) == "The if statement"
    record = json.loads(run.source_path.read_text())
    assert (record["kind"], record["weights"], list(record["files_sha256"])) == ("gguf", "F32", ["theirs.gguf"])


def test_linear_scaling_is_read(gguf_file):
    rope = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
    fields = [("llama.rope.scaling.type", "linear"), ("llama.rope.scaling.factor", 2.0)]
    path, theirs = gguf_file(rope_parameters=rope, fields=fields)
    assert_same_logits(sp.load_model(path)[0], theirs)


def test_llama3_scaling_is_read_off_its_divisors(gguf_file):
    rope = {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3, "original_max_position_embeddings": 8192}
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": rope}
    _, theirs = gguf_file(**sizes)
    plain = 1.0 / 5e5 ** (torch.arange(0, 64, 2) / 64)
    divisor = (plain / theirs.model.rotary_emb.inv_freq).numpy()
    assert divisor.max() == pytest.approx(4.0)
    path, theirs = gguf_file(**sizes, tensors=[("rope_freqs.weight", divisor)])
    ours, _ = sp.load_model(path)
    assert ours.config.rope_scaling["name"] == "llama3"
    assert_same_logits(ours, theirs)
    path, _ = gguf_file(**sizes, tensors=[("rope_freqs.weight", divisor**0.9)])
    with pytest.raises(ConfigError, match="rope_freqs.weight are not those of the llama3 scaling"):
        sp.load_model(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "qwen2"}, "general.architecture is 'qwen2'"),
        ({"tensors": [("blk.0.attn_q.bias", np.ones(32))]}, r"it has biases \(blk.0.attn_q.bias\)"),
        (
            {"fields": [("llama.rope.scaling.type", "yarn")]},
            "llama.rope.scaling.type 'yarn'",
        ),
        ({"fields": [("llama.expert_count", 8.0)]}, "it is a mixture of 8"),
    ],
)
def test_a_file_that_is_no_plain_llama_is_refused(gguf_file, given, message):
    path, _ = gguf_file(**given)
    with pytest.raises(ConfigError, match=f"theirs.gguf: .*{message}"):
        sp.load_model(path)


def test_a_file_that_was_cut_is_refused(gguf_file):
    path, _ = gguf_file()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"theirs.gguf: cannot be read as GGUF"):
        sp.load_model(path)
