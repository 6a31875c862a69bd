"""sinkpretrain: small-model pretraining for attention-sink experiments.

```python
import sinkpretrain as sp

model, tokenizer = sp.load_model("runs/quickstart/softmax-s0")
with sp.record(model, "resid_out", "mixed") as taps:
    logits_BTV = model(tokens_BT)                       # taps["resid_out"][layer]
for first_row, weights_BHRS in sp.weight_rows(model, tokens_BT, layer=3): ...
with sp.intervene(model, "isolate_position", position=10): ...
with sp.calibrate(model, heads="all", alpha=5.0, beta=0.4) as act:
    model(tokens_BT)                                    # act.sinks[layer]: which columns of which heads were moved
```
Names are imported on first use: `import sinkpretrain` costs nothing.
"""

import importlib
from typing import Any

_HOMES = {
    "load_model": "sinkpretrain.model.load",
    "record": "sinkpretrain.taps",
    "replace": "sinkpretrain.taps",
    "weight_rows": "sinkpretrain.model.llama",
    "intervene": "sinkpretrain.interventions.base",
    "calibrate": "sinkpretrain.calibration.act",
}

__all__ = ["calibrate", "intervene", "load_model", "record", "replace", "weight_rows"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sinkpretrain' has no attribute '{name}'; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
