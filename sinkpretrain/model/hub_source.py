"""Where a model from outside lies (a hub id, a Hugging Face folder, a GGUF file), and reading it with transformers."""

import importlib.util
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from safetensors import safe_open

from sinkpretrain.config import ModelConfig
from sinkpretrain.errors import ConfigError, DataError, SinkpretrainError
from sinkpretrain.model.gguf import GgufFile, is_gguf
from sinkpretrain.model.hub import MODEL_TYPES, model_config
from sinkpretrain.model.stranger import read_json, refuse_absurd, refuse_outside

ACCEPTED = (
    "a run folder, a Hugging Face folder, a GGUF file, or a Hugging Face hub id (owner/name or owner/name@revision)"
)
HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
# Read from a folder, or fetched from the hub; some repositories hold the weights a second time under other names.
FILES = ["*.json", "*.safetensors", "tokenizer.model", "merges.txt"]
NOT_FILES = ["*/*", "consolidated*"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model outside: `path` is its folder, or the GGUF file; `commit` what a hub id was resolved to."""

    given: str
    kind: Literal["hub", "folder", "gguf"]
    path: Path
    commit: str | None = None

    def files(self) -> Iterator[Path]:
        """The files that the model, its configuration and its tokenizer are read from."""
        if self.kind == "gguf":
            yield self.path
            return
        for path in sorted(self.path.iterdir()):
            wanted, unwanted = (any(fnmatchcase(path.name, p) for p in patterns) for patterns in (FILES, NOT_FILES))
            if path.is_file() and wanted and not unwanted:
                yield path


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """What transformers read: its model in float32 and eval mode, its tokenizer, and what the source says of both."""

    model: Any
    config: ModelConfig
    tokenizer: Any
    tokenizer_json: str
    weights: str  # how the source stores them


def resolve(source: Path | str, revision: str | None = None) -> Source:
    """Which kind of source this is; a hub id is fetched into the hub's cache, at a commit that is then known.

    Raises:
        ConfigError: it is none of those that are accepted.
        DataError: the hub cannot be reached, or does not have it.
    """
    given, path = str(source), Path(source)
    match = HUB_ID.fullmatch(given)
    if not path.exists() and match is not None and not path.parent.exists():
        return _from_hub(given, match["name"], revision or match["revision"])
    if revision is not None:
        raise ConfigError(f"revision: {revision!r} has a meaning for a hub id (owner/name) only, and {given} is a path")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"{given}: is not a run folder (no config.yaml in it), nor a Hugging Face folder (no config.json in "
                f"it); give {ACCEPTED}"
            )
        return Source(given=given, kind="folder", path=path)
    if path.is_file():
        if not is_gguf(path):
            raise ConfigError(f"{given}: is a file, but not GGUF; give {ACCEPTED}")
        return Source(given=given, kind="gguf", path=path)
    raise ConfigError(f"{given}: does not exist; give {ACCEPTED}")


def read(source: Source) -> HubModel:
    """The model and the tokenizer, by transformers; never pickled weights, never code of the source.

    Raises:
        ConfigError: an architecture that ours is not, or transformers is not installed.
        DataError: a file is missing or cannot be read.
    """
    transformers = _transformers(source)
    where = str(source.path if source.kind == "gguf" else source.path / "config.json")
    folder = source.path.parent if source.kind == "gguf" else source.path
    own: dict[str, Any] = {"gguf_file": source.path.name} if source.kind == "gguf" else {}
    own |= {"local_files_only": True, "trust_remote_code": False}
    file = GgufFile(source.path) if source.kind == "gguf" else None
    if file is None:
        refuse_outside(source.path, source.files())
        _refuse_other_architecture(Path(where))
    with _reading(source):
        hub_config = transformers.AutoConfig.from_pretrained(folder, **own)
        if file is not None:
            hub_config.rope_parameters = file.rope_parameters(hub_config) or hub_config.rope_parameters
        config = model_config(hub_config, where)
        weights, stored = (file.weights(), file.elements) if file is not None else _stored(source)
    refuse_absurd(config, stored, where)
    with _reading(source):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **own)
    with _reading(source):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=hub_config,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
            **own,
        )
    _refuse_other_weights(info, where)
    text = _tokenizer_json(source, tokenizer)
    return HubModel(model=model.eval(), config=config, tokenizer=tokenizer, tokenizer_json=text, weights=weights)


def _tokenizer_json(source: Source, tokenizer: Any) -> str:
    """The folder's own tokenizer.json, or what transformers made of another file."""
    own = source.path / "tokenizer.json"
    return own.read_text(encoding="utf-8") if own.is_file() else str(tokenizer.backend_tokenizer.to_str())


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Errors of transformers, which have no common class, as one sentence that names the source."""
    try:
        yield
    except SinkpretrainError:
        raise
    except Exception as error:
        raise DataError(f"{source.given}: transformers cannot read it ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def _from_hub(given: str, name: str, revision: str | None) -> Source:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=FILES, ignore_patterns=NOT_FILES)
    except Exception as error:  # the hub client's errors have no common class
        raise DataError(
            f"{given}: there is no such path, and as a hub id it cannot be fetched from the Hugging Face hub "
            f"({first_line(error)}); connect once, log in if the model is gated, or give {ACCEPTED}"
        ) from error
    path = Path(found)
    if not (path / "config.json").is_file():
        raise ConfigError(f"{given}: has no config.json; of a repository of GGUF files, fetch one and give its path")
    return Source(given=given, kind="hub", path=path, commit=path.name)


def _transformers(source: Source) -> ModuleType:
    """The library, with what it reads GGUF files with, or a sentence that names the extra."""
    for package in ("transformers", "accelerate", "gguf") if source.kind == "gguf" else ("transformers",):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{source.given}: reading it needs {package}; install the extra with scripts/install hub")
    return importlib.import_module("transformers")


def _refuse_other_architecture(path: Path) -> None:
    """Before transformers sees it: it would ask to run the code of an architecture that it does not know."""
    kind = read_json(path).get("model_type")
    if kind not in MODEL_TYPES:
        raise ConfigError(
            f"{path}: model_type {kind!r} is not one of {', '.join(MODEL_TYPES)}; other architectures have other "
            "norms, positions, biases or activations than the Llama; choose a model of the Llama family"
        )


def _refuse_other_weights(info: dict[str, Any], where: str) -> None:
    """Weights that are missing would be random, and ones that are not used would change the model."""
    missing = sorted(info["missing_keys"])
    unused = sorted(key for key in info["unexpected_keys"] if not key.endswith("rotary_emb.inv_freq"))
    if missing or unused:
        found = f"lacks {', '.join(missing[:3])}" if missing else f"also has {', '.join(unused[:3])}"
        raise DataError(f"{where}: its weights are not those of its configuration: it {found}")


def _stored(source: Source) -> tuple[str, int]:
    """The data types that the safetensors files store, and how many numbers."""
    found, count = set(), 0
    paths = [path for path in source.files() if path.suffix == ".safetensors"]
    if not paths:
        others = ", ".join(sorted(path.name for path in source.path.glob("*.bin"))) or "no weights at all"
        raise DataError(
            f"{source.given}: has no *.safetensors (found: {others}); pickled weights can run code and are never read; "
            "take a revision with safetensors, or convert them"
        )
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for tensor in map(file.get_slice, file.keys()):
                found.add(tensor.get_dtype())
                count += math.prod(tensor.get_shape())
    return ", ".join(sorted(found)), count
