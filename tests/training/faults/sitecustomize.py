"""Put on PYTHONPATH by the tests of ranks: makes one rank fail as FAULT says, `kind:rank:step`.

The rank of a process alone, and of a supervisor, is `alone`.
"""

import os
import signal
import sys
import time

own = os.environ.get("RANK", "alone")
kind, rank, step = (os.environ.get("FAULT", "") + "::").split(":")[:3]


def fail():
    if kind == "raise":
        raise RuntimeError("power cut")
    if kind == "sleep":
        time.sleep(1000)
    os.kill(os.getpid(), getattr(signal, kind))


def add_callback():
    from sinkpretrain.training import train
    from sinkpretrain.training.callbacks.base import StepCallback

    class Fault(StepCallback):
        def on_step(self, trainer, module):
            if module.step == int(step):
                fail()

    original = train._callbacks
    train._callbacks = lambda *arguments: [Fault(), *original(*arguments)]


def add_unused_parameter():
    import torch

    from sinkpretrain.model.llama import Llama

    original = Llama.__init__

    def build(self, *arguments, **keys):
        original(self, *arguments, **keys)
        self.spare = torch.nn.Parameter(torch.zeros(3))

    Llama.__init__ = build


if kind == "exit":  # before anything heavy: rank and exit code
    if own == rank:
        os._exit(int(step))
elif kind == "stubborn" and own != "alone":  # this rank ignores SIGTERM; the others exit with this code, or wait
    if own == rank:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif step:
        os._exit(int(step))
    time.sleep(1000)
elif kind == "unused" and own != "alone":
    add_unused_parameter()
elif kind and own == rank and "sinkpretrain" in " ".join(sys.orig_argv):
    add_callback()
