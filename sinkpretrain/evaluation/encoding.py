"""Text as the tokens a model is evaluated on: as stock lm-evaluation-harness would encode it for the same model."""

from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.records import read_record
from sinkpretrain.runs import Run

BosChoice = Literal["auto", "none", "always"]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A tokenizer and the special tokens around text. Text that spells a special token gives that token.

    `prefix` stands for an empty prompt; `begins` says whether it also precedes every prompt; `end` ends generated text.
    """

    tokenizer: Tokenizer
    prefix: int
    end: int
    begins: bool

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids, with the BOS in front where the model wants one; None: unless the text has it already."""
        begins = self.begins and not text.startswith(self.text(self.prefix))
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [self.prefix, *ids] if (begins if add_special_tokens is None else add_special_tokens) else ids

    def pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of both; they are cut apart after encoding them together, spaces between them go to the answer.

        Raises:
            DataError: nothing is left of one of them.
        """
        if not prompt:
            ids = self.encode(answer, add_special_tokens=False)
            found = (ids[:1], ids[1:]) if ids[:1] == [self.prefix] else ([self.prefix], ids)
        else:
            stripped = prompt.rstrip()
            found_prompt = self.encode(stripped)
            found = found_prompt, self.encode(stripped + prompt[len(stripped) :] + answer)[len(found_prompt) :]
        if not all(found):
            raise DataError(
                f"the answer {answer!r} after {prompt[-40:]!r} gives no token of its own, so it cannot be scored; "
                "change the task's text"
            )
        return found

    def covered(self, prompt: str, span: tuple[int, int]) -> list[bool]:
        """For each token of a prompt that `pair` gave, whether it holds characters of a span of the prompt."""
        stripped = prompt.rstrip()
        first, last = span
        offsets = self.tokenizer.encode(stripped, add_special_tokens=False).offsets
        inside = [start < last and end > first for start, end in offsets]
        return [False] * (len(self.encode(stripped)) - len(inside)) + inside

    def text(self, token: int) -> str:
        """What one token reads, special ones too."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))


def encoder_of(run: Run, tokenizer: Tokenizer, bos: BosChoice = "auto") -> Encoder:
    """The encoder of a run's model.

    With `auto` a prompt begins with a BOS where the texts of training did: for an imported model where its tokenizer
    puts one, for a run trained here with `bos: document` or `window`, where it is the token between documents. That is
    what stock lm-evaluation-harness does with the exported folder.

    Args:
        run: trained or imported.
        tokenizer: as `load_model` gives it.
        bos: `none` or `always` decide otherwise.

    Raises:
        ConfigError: the model has no token that could begin or end a text.
    """
    if run.source_path.exists():
        source = read_record(run.source_path, "sinkpretrain import")
        end = source["eos_id"] if source.get("eos_id") is not None else source["separator_id"]
        prefix, begins = source["bos_id"] if source["bos_id"] is not None else end, source.get("begins_with_bos", False)
    else:
        data = run.config().data
        prefix = end = TokenStore.open(data.store).separator
        begins = data.bos != "none"
    if prefix is None or end is None:
        raise ConfigError(f"{run.root}: its tokenizer has neither a BOS nor an end-of-text token; import another model")
    spelled = Tokenizer.from_str(tokenizer.to_str())  # `load_model`'s reads special tokens as plain text
    asked = {"auto": begins, "none": False, "always": True}[bos]
    return Encoder(tokenizer=spelled, prefix=prefix, end=end, begins=asked)
