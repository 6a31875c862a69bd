"""Put on PYTHONPATH by `planting.elsewhere`: plants a fault in a process that the run under test starts."""

import importlib
import json
import os
import sys

if "sinkpretrain.training.mirror" in sys.orig_argv:
    own = "mirror"
elif "sinkpretrain" in sys.orig_argv:
    own = os.environ.get("RANK", "")
else:
    own = ""
planted = json.loads(os.environ.get("SINKPRETRAIN_PLANTED", "{}"))
if own in planted:
    module, _, function = planted[own]["function"].partition(":")
    getattr(importlib.import_module(module), function)(*planted[own]["given"])
