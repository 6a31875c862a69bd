"""Tiny models as others save them: Hugging Face folders and GGUF files, with a tokenizer trained on real text."""

import json
import pydoc_data.topics
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_models import SIZES, write_tensors, write_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers


@pytest.fixture(scope="session")
def bpe():
    """A byte-level BPE with one special token, as the text of its tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(list(pydoc_data.topics.topics.values())[:4], trainer)
    return tokenizer.to_str()


@pytest.fixture
def hub_model():
    """A model of transformers, its weights large enough that attention is far from uniform."""

    def make(kind="Llama", **different):
        import transformers

        config = getattr(transformers, f"{kind}Config")(**{**SIZES, **different})
        torch.manual_seed(5)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data * 5 if parameter.ndim == 2 else parameter.data + 0.3
        return model

    return make


@pytest.fixture
def hub_folder(tmp_path, hub_model, bpe):
    """A Hugging Face folder, and the model that was saved there."""

    def make(kind="Llama", begins_with_bos=False, **different):
        model = hub_model(kind, **different)
        folder = tmp_path / "theirs"
        model.save_pretrained(folder)
        tokenizer = Tokenizer.from_str(bpe)
        if begins_with_bos:
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
            )
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
        return folder, model

    return make


@pytest.fixture
def gguf_file(tmp_path, hub_model, bpe):
    """A GGUF file written as llama.cpp converts a Llama, and the model that is in it.

    Rows of W_Q and W_K go from the hub's halves to neighbouring pairs, which is what llama.cpp's RoPE turns.
    """

    def make(architecture="llama", fields=(), tensors=(), **different):
        import gguf

        model = hub_model(**different)
        config, path = model.config, tmp_path / "theirs.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
        writer.add_file_type(0)
        for name, value in fields:
            (writer.add_string if isinstance(value, str) else writer.add_float32)(name, value)
        write_tokenizer(writer, json.loads(bpe))
        write_tensors(writer, model)
        for name, array in tensors:
            writer.add_tensor(name, np.asarray(array, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Path(path), model

    return make
