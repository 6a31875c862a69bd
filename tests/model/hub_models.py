"""What the tests of models in and out share: sizes, equal logits, and the tensors and tokens of a GGUF file.

Shapes use B batch, T positions.
"""

import torch
from torch.testing import assert_close

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}  # rounding of float32 in another order

SIZES = dict(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
    bos_token_id=0,
    eos_token_id=0,
)
LLAMA3 = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)


def assert_same_logits(ours, theirs):
    tokens_BT = torch.randint(320, (2, ours.config.context_length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        their_logits = theirs(tokens_BT).logits
        assert their_logits.std() > 0.1
        assert_close(ours(tokens_BT), their_logits, **TOLERANCE)


def write_tokenizer(writer, bpe):
    vocabulary = sorted(bpe["model"]["vocab"], key=bpe["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, *[1] * (len(vocabulary) - 1)])
    writer.add_token_merges([" ".join(pair) for pair in bpe["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def write_tensors(writer, model):
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
        for projection, count in heads.items():
            if projection in name:
                halves = tensor.reshape(count, 2, -1, tensor.shape[1])
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.contiguous().numpy())
