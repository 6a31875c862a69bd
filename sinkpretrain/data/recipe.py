"""A recipe: the YAML file that says which text becomes a token store, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkpretrain.data.sources import FilesSource, HubSource, Source
from sinkpretrain.data.tokenizer import FileTokenizer, Gpt2Tokenizer, TrainedTokenizer
from sinkpretrain.data.wheels import PackageSource
from sinkpretrain.errors import ConfigError, check
from sinkpretrain.mappings import build, read_yaml

SOURCES: dict[str, type[Source]] = {"hub": HubSource, "files": FilesSource, "package": PackageSource}
TOKENIZERS: dict[str, type[Any]] = {"gpt2": Gpt2Tokenizer, "file": FileTokenizer, "train": TrainedTokenizer}

TokenizerOptions = Gpt2Tokenizer | FileTokenizer | TrainedTokenizer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sources, tokenizer, the share of documents held out for validation, and the size of a shard."""

    sources: list[dict[str, Any]]
    tokenizer: dict[str, Any]
    validation_fraction: float  # of documents, by the hash of their text
    shard_tokens: int = 100_000_000  # a shard is closed by the document that reaches this

    def __post_init__(self) -> None:
        """Refuse unknown kinds, their unknown options, and values out of range."""
        if not self.sources:
            raise ConfigError("sources: is empty; a recipe needs at least one source")
        check(0 < self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "0 < value < 1")
        check(self.shard_tokens >= 1, "shard_tokens", self.shard_tokens, ">= 1")
        self.built_sources()
        self.built_tokenizer()

    def built_sources(self) -> list[Source]:
        """The sources, in order."""
        return [_kind(SOURCES, entry, f"sources[{number}]") for number, entry in enumerate(self.sources)]

    def built_tokenizer(self) -> TokenizerOptions:
        """The tokenizer's kind with its options."""
        tokenizer: TokenizerOptions = _kind(TOKENIZERS, self.tokenizer, "tokenizer")
        return tokenizer


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        ConfigError: no such file, an unknown key or kind, a missing key, or a value out of range.
    """
    return build(Recipe, read_yaml(path), "")


def _kind(kinds: Mapping[str, type[Any]], entry: Mapping[str, Any], where: str) -> Any:
    """The kind that an entry's `name` names, with the entry's other keys as its options."""
    name = str(entry.get("name"))
    if name not in kinds:
        raise ConfigError(f"{where}: name {name!r} is not one of {', '.join(kinds)}")
    return build(kinds[name], {key: value for key, value in entry.items() if key != "name"}, where)
