"""What a Hugging Face folder of a stranger could do beside being a model, and is refused before transformers reads it.

Nothing outside of the folder is read: neither through a link nor through a name in the index of its weights. Sizes in
the configuration are believed as far as the weights bear them out, since memory is taken for them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sinkpretrain.config import ModelConfig
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.shapes import misfit, plain

INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
MOST = 4  # times as many parameters as are stored; fewer are missing by name, which is told more precisely


def refuse_outside(folder: Path, files: Iterable[Path]) -> None:
    """Raise where reading these files of a folder would read others.

    Raises:
        ConfigError: an adapter, which needs a model from elsewhere.
        DataError: a link out of the folder, or an index of weights that names other files than those in it.
    """
    if (folder / ADAPTER).exists():
        raise ConfigError(
            f"{folder / ADAPTER}: this is an adapter of another model; merge it into that, and import both"
        )
    here, blobs = folder.resolve(), folder.resolve().parent.parent / "blobs"  # as the hub's client keeps files
    for path in files:
        if path.resolve().parent not in (here, blobs):
            raise DataError(f"{path}: leads out of its folder, to {path.resolve()}; put the file itself there")
    if (folder / INDEX).exists():
        names = {"weight_map": {plain: plain}}
        if (found := misfit(read_json(folder / INDEX), names)) is not None:
            raise DataError(f"{folder / INDEX}: {found}; weights lie beside it, in files that it names")


def refuse_absurd(config: ModelConfig, stored: int, where: str) -> None:
    """Raise where a model would have many times as many parameters as are `stored`.

    Raises:
        DataError: with both numbers.
    """
    width, per_head = config.d_model, config.d_model // config.n_heads
    block = 2 * width**2 + 2 * width * config.kv_heads * per_head + 3 * width * config.d_ff + 2 * width
    expected = config.n_layers * block + (config.vocab_size or 0) * width
    if expected > MOST * stored:
        raise DataError(
            f"{where}: its weights are not those of its configuration: that asks for {expected:,} parameters, and "
            f"{stored:,} are stored"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A mapping in a JSON file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a JSON object ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: cannot be read as a JSON object (it is a {type(content).__name__})")
    return content
