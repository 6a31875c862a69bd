"""Tokenizers: GPT-2's, any tokenizer.json, or a byte-level BPE trained on the corpus itself."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from sinkpretrain.errors import DataError, check

GPT2, GPT2_REVISION = "openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"
TRAINED_SEPARATOR = "<|endoftext|>"
COMMON_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
ENCODED_PIECE = 1 << 18  # characters
LARGEST_TRAINED = 1_000_000  # token ids
# BPE training keeps every distinct word and revisits it for every merge in it: a line without a space must not become
# one word of megabytes, nor a corpus of such lines gigabytes of words that are all distinct.
TRAINED_PIECE = 1 << 12  # characters
LONG_WORD = re.compile(r"\w{512}|[^\w\s]{512}")  # longer than what people write
LONG_WORDS = 1_000_000  # bytes of pieces with one in them that training takes


@dataclass(frozen=True, kw_only=True)
class Gpt2Tokenizer:
    """`name: gpt2`: from the Hugging Face hub, at a pinned revision."""

    separator = TRAINED_SEPARATOR

    def file_sha256(self, folder: Path) -> str | None:
        """None: the recipe says all there is to say."""
        return None

    def tokenizer_json(self, folder: Path, texts: Callable[[], Iterator[str]]) -> bytes:
        """The content of tokenizer.json.

        Raises:
            DataError: the hub cannot be reached and the tokenizer is not in its cache.
        """
        try:
            return str(Tokenizer.from_pretrained(GPT2, revision=GPT2_REVISION).to_str()).encode()
        except Exception as error:  # the hub client's errors have no common class
            raise DataError(
                f"tokenizer: gpt2 cannot be fetched from the Hugging Face hub ({_first_line(error)}); connect once, or "
                "give its file: tokenizer: {name: file, path: tokenizer.json}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class FileTokenizer:
    """`name: file`: any tokenizer.json; `path` is relative to the recipe, `separator` one of its special tokens."""

    path: str
    separator: str | None = None  # None: the first of COMMON_SEPARATORS that is one of its special tokens

    def __post_init__(self) -> None:
        """Refuse a separator without a name."""
        check(self.separator != "", "tokenizer.separator", self.separator, "a special token, or null")

    def file_sha256(self, folder: Path) -> str | None:
        """SHA-256 of the file, since the recipe has only its name.

        Raises:
            DataError: no such file, or one that cannot be read.
        """
        path = folder / self.path
        if not path.is_file():
            raise DataError(f"{path}: there is no such tokenizer file; tokenizer.path is relative to the recipe")
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give it read permission") from None

    def tokenizer_json(self, folder: Path, texts: Callable[[], Iterator[str]]) -> bytes:
        """The content of tokenizer.json.

        Raises:
            DataError: no such file, or not a tokenizer.
        """
        path = folder / self.path
        load_tokenizer(path)
        return path.read_bytes()


@dataclass(frozen=True, kw_only=True)
class TrainedTokenizer:
    """`name: train`: byte-level BPE of the first `megabytes` (10^6 bytes of text) of the training documents."""

    vocab_size: int = 4096
    megabytes: float = 100.0
    separator = TRAINED_SEPARATOR

    def __post_init__(self) -> None:
        """Refuse a vocabulary without room for all bytes, or with more than training has memory for."""
        smallest = len(pre_tokenizers.ByteLevel.alphabet()) + 1
        allowed = f"{smallest} (all bytes and a separator) <= value <= {LARGEST_TRAINED:,}"
        check(smallest <= self.vocab_size <= LARGEST_TRAINED, "tokenizer.vocab_size", self.vocab_size, allowed)
        check(self.megabytes > 0, "tokenizer.megabytes", self.megabytes, "> 0")

    def file_sha256(self, folder: Path) -> str | None:
        """None: the recipe says all there is to say."""
        return None

    def tokenizer_json(self, folder: Path, texts: Callable[[], Iterator[str]]) -> bytes:
        """The content of tokenizer.json; a corpus with few distinct words gives a smaller vocabulary than asked for."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[self.separator],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_training_pieces(texts(), int(self.megabytes * 1e6)), trainer)
        return str(tokenizer.to_str()).encode()


def _training_pieces(texts: Iterable[str], most_bytes: int) -> Iterator[str]:
    """The texts in pieces, until their bytes reach a limit; of those with a long word in them the first only."""
    seen = with_long_word = 0
    for text in texts:
        for piece in pieces(text, TRAINED_PIECE):
            size = len(piece.encode())
            is_long = LONG_WORD.search(max(piece.split(), key=len, default="")) is not None
            with_long_word += size if is_long else 0
            if not is_long or with_long_word <= LONG_WORDS:
                yield piece
            seen += size
            if seen >= most_bytes:
                return


def pieces(text: str, limit: int = ENCODED_PIECE) -> Iterator[str]:
    """A text in pieces of at most `limit` characters, so that memory and time stay bounded on any document.

    A cut is put before the last lone space or line feed of a piece. A byte-level BPE never merges across one, so its
    tokens are those of the whole text. Only a piece without one in its second half is cut in the middle of a word.
    """
    start = 0
    while len(text) - start > limit:
        candidates = range(start + limit, start + limit // 2, -1)
        end = next((at for at in candidates if _is_lone_space(text, at)), start + limit)
        yield text[start:end]
        start = end
    yield text[start:]


def _is_lone_space(text: str, at: int) -> bool:
    return text[at] in " \n" and not text[at - 1].isspace() and not text[at + 1 : at + 2].isspace()


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer that gives the tokens of a text and nothing else: no truncation, no padding, no special tokens.

    Text that spells a special token, such as `<|endoftext|>` on a web page, is encoded as the text it is.

    Raises:
        DataError: no such file, or not a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such tokenizer file") from None
    except Exception as error:  # tokenizers raises Exception itself
        raise DataError(f"{path}: cannot be read as a tokenizer.json ({_first_line(error)})") from None
    return text_only(tokenizer)


def text_only(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, changed to give the tokens of a text and nothing else, as `load_tokenizer` says."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    if tokenizer.num_special_tokens_to_add(is_pair=False):
        tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    return tokenizer


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """What one token reads, special ones too; a byte that is no character by itself reads as a replacement sign."""
    return str(tokenizer.decode([token], skip_special_tokens=False))


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the highest token id; ids may have holes."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def separator_id(tokenizer: Tokenizer, name: str | None) -> int:
    """The token that stands between documents: the one named, or the first of `COMMON_SEPARATORS` there is.

    Raises:
        DataError: it is not a special token of this tokenizer; the message lists those.
    """
    special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for candidate in [name] if name else COMMON_SEPARATORS:
        if candidate in special:
            return int(special[candidate])
    wanted = repr(name) if name else f"any of {', '.join(COMMON_SEPARATORS)}"
    raise DataError(
        f"tokenizer.separator: {wanted} is wanted as the token between documents, but the special tokens of this "
        f"tokenizer are {', '.join(special) or 'none at all'}; name one of them as tokenizer.separator"
    )


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.uint16]:
    """How many bytes of text each token id stands for, shape (vocab_size,); 0 for special tokens and holes.

    Exact for byte-level BPE, where a token's string has one character a byte. Elsewhere `▁` is a space, `<0x0A>` is
    one byte, and anything else its own UTF-8; the manifest's `token_bytes_exact` says whether that adds up.
    """
    byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str()).get("decoder"))
    added = tokenizer.get_added_tokens_decoder()
    lengths = np.zeros(vocabulary_size(tokenizer), dtype=np.uint16)
    for text, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if number in added:
            lengths[number] = 0 if added[number].special else len(text.encode())
        elif byte_level:
            lengths[number] = len(text)
        else:
            lengths[number] = 1 if _is_byte_token(text) else len(text.replace("▁", " ").encode())
    return lengths


def _is_byte_token(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _first_line(error: Any) -> str:
    """The first line of an error's message, or its class."""
    return str(error).strip().split("\n")[0] or type(error).__name__
