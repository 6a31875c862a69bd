"""A program of its own: read an exported folder where sinkpretrain cannot be imported.

`python -I read_export.py FOLDER PARITY`: the folder PARITY has `tokens.safetensors` and `text.txt`;
`logits.safetensors` and `ids.json` are written beside them.

Shapes use B batch, T positions, V vocabulary.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


class Hidden:
    """An import hook under which sinkpretrain does not exist."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse the package; leave other names to the next finder."""
        if name.partition(".")[0] == "sinkpretrain":
            raise ModuleNotFoundError(f"{name} is hidden: an exported folder must do without it", name=name)


@torch.no_grad()
def main(folder: Path, parity: Path) -> None:
    """Write the logits of the folder's model and the token ids of its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    own = {"trust_remote_code": True, "local_files_only": True}  # its code is what `exporting` has just written there
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **own).eval()
    tokens_BT = load_file(parity / "tokens.safetensors")["tokens_BT"]
    logits_BTV = model(tokens_BT, use_cache=False).logits
    save_file({"logits_BTV": logits_BTV.contiguous()}, parity / "logits.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer((parity / "text.txt").read_text(encoding="utf-8"))["input_ids"]
    (parity / "ids.json").write_text(json.dumps(ids))


if __name__ == "__main__":
    sys.meta_path.insert(0, Hidden())
    main(Path(sys.argv[1]), Path(sys.argv[2]))
