"""A run's model as a Hugging Face folder, which transformers reads without this package.

Softmax weights without output transforms are transformers' own Llama. Every other variant brings a model file: the
source text of its attention kinds, as it was trained, and `modeling_sinkpretrain.py`.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors

from sinkpretrain.config import Config
from sinkpretrain.data.manifest import TOKENIZER
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.model import read_export
from sinkpretrain.model.hub import hub_config, hub_name
from sinkpretrain.model.llama import Llama
from sinkpretrain.model.load import load_model
from sinkpretrain.model.model_file import TEMPLATE, model_file
from sinkpretrain.model.new_folder import new_folder, refuse_taken
from sinkpretrain.model.parity import logit_parity, parity_tokens, too_far
from sinkpretrain.records import read_record
from sinkpretrain.runs import Run

TEXT = "Where does a model look when there is nothing to see? At its first token.\n"


@dataclass(frozen=True, kw_only=True)
class ExportTokenizer:
    """A run's tokenizer as its training used it: with the BOS that began each text, if there was one."""

    tokenizer: Tokenizer
    bos: str | None
    eos: str | None

    def ids(self) -> dict[str, int | None]:
        """The ids of both, as a configuration has them."""
        tokens = {"bos_token_id": self.bos, "eos_token_id": self.eos}
        return {name: None if text is None else self.tokenizer.token_to_id(text) for name, text in tokens.items()}


def export_hf(run: Run | Path | str, out: Path | str, step: int | None = None) -> Path:
    """A Hugging Face folder with a run's model, its configuration and its tokenizer.

    `AutoModelForCausalLM.from_pretrained(out)` reads it; a variant other than plain softmax needs
    `trust_remote_code=True`, since its model file lies in the folder. The folder appears only after a fresh process,
    in which sinkpretrain cannot be imported, gave our logits and our tokens from it.

    Args:
        run: a run, trained or imported.
        out: the folder to make.
        step: which checkpoint; None: the newest whole one.

    Raises:
        ConfigError: not a run, `out` is taken, transformers is not installed, or an attention kind's file imports
            what cannot be exported.
        DataError: the token store is gone, or the folder gave other logits or tokens.
        ResumeError: no checkpoint, none of that step, or one that was altered.
    """
    run, out = run if isinstance(run, Run) else Run.open(run), Path(out)
    refuse_taken(out)
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"{out}: exporting needs transformers; install the extra with scripts/install hub")
    model, _ = load_model(run.root, step)
    tokenizer = _tokenizer(run, run.config())
    with new_folder(out) as folder:
        _write_weights(folder, model)
        _write_config(folder, model, tokenizer)
        _write_tokenizer(folder, model, tokenizer)
        _check(folder, out, model, tokenizer)
    return out


def is_plain(model: Llama) -> bool:
    """Whether the model's attention is that of transformers' Llama."""
    attention = model.config.attention
    return attention.weights["name"] == "softmax" and not attention.output


def _write_weights(folder: Path, model: Llama) -> None:
    """Every parameter under the hub's name; a tied head once."""
    tied = {"head.weight"} if model.config.tie_embeddings else set()
    tensors = {hub_name(name): tensor for name, tensor in model.state_dict().items() if name not in tied}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_config(folder: Path, model: Llama, tokenizer: ExportTokenizer) -> None:
    """config.json and generation_config.json; the variant with all its options, and the file that knows it."""
    from transformers import GenerationConfig, LlamaConfig

    ids = tokenizer.ids()
    config = LlamaConfig(**hub_config(model.config), **ids, architectures=["LlamaForCausalLM"], dtype="float32")
    config.save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)
    if is_plain(model):
        return
    (folder / TEMPLATE.name).write_text(model_file(model.config.attention), encoding="utf-8")
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {
        "model_type": "sinkpretrain",
        "architectures": ["SinkpretrainForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{TEMPLATE.stem}.SinkpretrainConfig",
            "AutoModelForCausalLM": f"{TEMPLATE.stem}.SinkpretrainForCausalLM",
        },
        "sinkpretrain_attention": _attention(model),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _attention(model: Llama) -> dict[str, Any]:
    """The variant as it was built: each kind's name, and every option with its value."""
    attention: Any = model.blocks[0].attention
    given = model.config.attention
    return {
        "weights": {"name": given.weights["name"], **_options(attention.weights)},
        "output": [
            {"name": entry["name"], **_options(transform)}
            for entry, transform in zip(given.output, attention.output, strict=True)
        ],
    }


def _options(kind: Any) -> dict[str, Any]:
    return asdict(kind.options) if is_dataclass(kind.options) else {}  # type: ignore[arg-type]


def _tokenizer(run: Run, config: Config) -> ExportTokenizer:
    """The tokenizer of an imported run or of a token store, whose separator is both BOS and end of text."""
    if run.tokenizer_path.exists():
        tokenizer = Tokenizer.from_file(str(run.tokenizer_path))
        source = read_record(run.source_path, "sinkpretrain import")
        bos, eos = (None if source[key] is None else tokenizer.id_to_token(source[key]) for key in ("bos_id", "eos_id"))
    else:
        store = TokenStore.open(config.data.store)
        tokenizer = Tokenizer.from_file(str(store.root / TOKENIZER))
        bos = eos = tokenizer.id_to_token(store.separator)
    if config.data.bos != "none" and bos is not None and not tokenizer.num_special_tokens_to_add(is_pair=False):
        special = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=special
        )
    return ExportTokenizer(tokenizer=tokenizer, bos=bos, eos=eos)


def _write_tokenizer(folder: Path, model: Llama, tokenizer: ExportTokenizer) -> None:
    """tokenizer.json, and what AutoTokenizer wants to know beside it."""
    tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.bos,
        "eos_token": tokenizer.eos,
        "model_max_length": model.config.context_length,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _check(folder: Path, out: Path, model: Llama, tokenizer: ExportTokenizer) -> None:
    """Read the folder in a fresh process; raise where it says anything else than we do."""
    with tempfile.TemporaryDirectory() as name:
        parity = Path(name)
        save_file({"tokens_BT": parity_tokens(model)}, parity / "tokens.safetensors")
        (parity / "text.txt").write_text(TEXT, encoding="utf-8")
        command = [sys.executable, "-I", read_export.__file__, str(folder), name]
        environment = {**os.environ, "HF_MODULES_CACHE": str(parity / "modules"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or f"it ended with {done.returncode}").split("\n")[-1]
            raise DataError(f"{out}: a fresh process cannot read the exported folder ({said}); nothing was written")
        found = logit_parity(model, load_file(parity / "logits.safetensors")["logits_BTV"])
        ids = json.loads((parity / "ids.json").read_text())
    if too_far(found):
        raise DataError(
            f"{out}: the exported model's logits differ from ours by {found['max_abs_logit_error']:.2g}, more than "
            f"{found['allowed']:.2g}; nothing was written"
        )
    if ids != tokenizer.tokenizer.encode(TEXT).ids:
        raise DataError(f"{out}: the exported tokenizer gives other tokens than ours; nothing was written")
