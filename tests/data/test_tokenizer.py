import json
import random

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sinkpretrain.data import tokenizer as module
from sinkpretrain.data.prepare import encode
from sinkpretrain.data.tokenizer import (
    FileTokenizer,
    Gpt2Tokenizer,
    TrainedTokenizer,
    load_tokenizer,
    pieces,
    separator_id,
    token_bytes,
    vocabulary_size,
)
from sinkpretrain.errors import DataError


def trained(folder, texts, **options):
    options = {"vocab_size": 320, **options}
    path = folder / "tokenizer.json"
    path.write_bytes(TrainedTokenizer(**options).tokenizer_json(folder, lambda: iter(texts)))
    return load_tokenizer(path)


def sentencepiece_like(special=("<s>", "</s>")):
    """What Llama 2's tokenizer.json is in small: BPE over characters, a space mark, byte fallback."""
    pieces_of_it = ["<unk>", *special, "<0xC3>", "<0xBC>", "▁", "a", "b", "▁a", "ab"]
    model = models.BPE({piece: i for i, piece in enumerate(pieces_of_it)}, [("▁", "a"), ("a", "b")], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def test_a_trained_tokenizer_gives_every_text_back(tmp_path, texts):
    tokenizer = trained(tmp_path, texts)
    for text in [*texts, "never seen: ŧøķ€ñ \x00\t\U0001d518", "<|endoftext|>"]:
        (tokens,) = encode(tokenizer, [text])
        assert tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == text
        assert separator_id(tokenizer, None) not in tokens
        assert token_bytes(tokenizer)[tokens].sum() == len(text.encode())


def test_training_is_the_same_every_time(tmp_path, texts):
    first = TrainedTokenizer(vocab_size=400).tokenizer_json(tmp_path, lambda: iter(texts))
    assert first == TrainedTokenizer(vocab_size=400).tokenizer_json(tmp_path, lambda: iter(texts))
    assert len(json.loads(first)["model"]["vocab"]) == 400


def test_training_reads_no_more_than_it_may(tmp_path, texts):
    whole = sum(len(text.encode()) for text in texts)
    read = []

    def counted():
        for text in texts:
            read.append(len(text.encode()))
            yield text

    TrainedTokenizer(vocab_size=300, megabytes=whole / 2 / 1e6).tokenizer_json(tmp_path, counted)
    assert whole / 2 <= sum(read) < whole * 0.7


def test_training_takes_some_text_with_long_words_only(texts, monkeypatch):
    """Words that are all distinct and long would take time and memory without bound."""
    monkeypatch.setattr(module, "LONG_WORDS", 20_000)
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=100_000))
    signs = letters.translate(str.maketrans("abcdefghijklmnopqrstuvwxyz", "!#$%&()*+,-./:;<=>?@[]^{|}"))
    ordinary = " ".join(texts)
    for long in (letters, signs):
        taken = list(module._training_pieces([ordinary, long, ordinary], 10**9))
        assert "".join(taken).count(ordinary) == 2
        assert 12_000 < sum(map(len, taken)) - 2 * len(ordinary) <= 20_000
    urls = " ".join(f"https://example.org/{letters[:30]}/{letters[:40]}?{number}" * 8 for number in range(200))
    assert "".join(module._training_pieces([urls], 10**9)) == urls


@pytest.mark.parametrize("limit", [7, 40, 41, 1000])
def test_pieces_make_up_the_text(texts, limit):
    text = " ".join(texts)[:3000] + "x" * 3000
    found = list(pieces(text, limit))
    assert "".join(found) == text
    assert max(map(len, found)) <= limit
    assert len(list(pieces("", limit))) == 1


def test_cutting_at_a_lone_space_leaves_the_tokens_as_they_are(tmp_path, texts):
    tokenizer = trained(tmp_path, texts)
    text = "\n\n".join(texts).replace(". ", ".   ")
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    for limit in (200, 333, 1000):
        found = list(pieces(text, limit))
        assert len(found) > 5
        assert [token for piece in found for token in tokenizer.encode(piece, add_special_tokens=False).ids] == whole


def test_a_huge_line_without_a_space_is_encoded_in_bounded_pieces(tmp_path, texts, monkeypatch):
    letters = random.Random(0)
    line = "".join(letters.choice("abcdefg") for _ in range(1_500_000))
    tokenizer = trained(tmp_path, [*texts, line], megabytes=0.1)
    longest = []
    original = module.Tokenizer.encode_batch_fast

    class Watched:
        def encode_batch_fast(self, batch, add_special_tokens):
            longest.append((max(map(len, batch)), sum(map(len, batch))))
            return original(tokenizer, batch, add_special_tokens=add_special_tokens)

    short, tokens, last = encode(Watched(), ["short", line, "last"])
    assert tokenizer.decode(tokens.tolist()) == line
    assert tokenizer.decode(short.tolist()) + tokenizer.decode(last.tolist()) == "shortlast"
    assert max(piece for piece, _ in longest) <= module.ENCODED_PIECE
    assert max(batch for _, batch in longest) <= (1 << 20) + module.ENCODED_PIECE


def test_truncation_padding_and_templates_of_a_foreign_file_do_not_reach_the_tokens(tmp_path, texts):
    tokenizer = trained(tmp_path, texts)
    plain = tokenizer.encode(texts[0], add_special_tokens=False).ids
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=5000)
    tokenizer.save(str(tmp_path / "foreign.json"))
    (tokens,) = encode(load_tokenizer(tmp_path / "foreign.json"), [texts[0]])
    assert tokens.tolist() == plain


def test_separators_are_found_named_or_refused_with_a_list():
    assert separator_id(sentencepiece_like(), None) == 2  # </s>
    assert separator_id(sentencepiece_like(), "<s>") == 1
    assert separator_id(sentencepiece_like(("</s>", "<|endoftext|>")), None) == 2  # earlier in COMMON_SEPARATORS
    with pytest.raises(DataError, match=r"any of <\|endoftext\|>.*are \[BOS\], \[SEP\]; name one of them"):
        separator_id(sentencepiece_like(("[BOS]", "[SEP]")), None)
    with pytest.raises(DataError, match=r"'<eos>' is wanted .* are <s>, </s>"):
        separator_id(sentencepiece_like(), "<eos>")


def test_token_bytes_outside_byte_level_bpe():
    tokenizer = sentencepiece_like()
    text = "ab aü a"
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    assert token_bytes(tokenizer)[tokens].sum() == len(text.encode())
    assert token_bytes(tokenizer)[[1, 2]].tolist() == [0, 0]
    assert token_bytes(tokenizer).dtype == np.uint16
    assert len(token_bytes(tokenizer)) == vocabulary_size(tokenizer)


def test_an_added_token_that_is_not_special_counts_its_text(tmp_path, texts):
    tokenizer = trained(tmp_path, texts)
    tokenizer.add_tokens([AddedToken("würd", special=False)])
    assert token_bytes(tokenizer)[vocabulary_size(tokenizer) - 1] == 5


def test_a_file_is_kept_byte_for_byte_and_a_bad_one_is_refused(tmp_path, texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.save(str(tmp_path / "own.json"), pretty=True)
    kept = FileTokenizer(path="own.json").tokenizer_json(tmp_path, lambda: iter(texts))
    assert kept == (tmp_path / "own.json").read_bytes()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad.json: cannot be read as a tokenizer.json"):
        load_tokenizer(tmp_path / "bad.json")
    with pytest.raises(DataError, match=r"none.json: there is no such tokenizer file"):
        FileTokenizer(path="none.json").file_sha256(tmp_path)


def test_gpt2_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("Check your connection\nand a page of advice")

    monkeypatch.setattr(module, "Tokenizer", type("Offline", (), {"from_pretrained": staticmethod(unreachable)}))
    with pytest.raises(
        DataError, match=r"gpt2 cannot be fetched .*\(Check your connection\); connect once, or give its"
    ):
        Gpt2Tokenizer().tokenizer_json(tmp_path, lambda: iter(()))


@pytest.mark.hub
def test_gpt2_is_gpt2(tmp_path):
    (tmp_path / "gpt2.json").write_bytes(Gpt2Tokenizer().tokenizer_json(tmp_path, lambda: iter(())))
    tokenizer = load_tokenizer(tmp_path / "gpt2.json")
    assert vocabulary_size(tokenizer) == 50_257
    assert separator_id(tokenizer, None) == 50_256
    assert encode(tokenizer, ["Hello world"])[0].tolist() == [15496, 995]
