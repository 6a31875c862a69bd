"""Random numbers of training that do not depend on when, where and how often a run was interrupted.

What a pass draws (dropout) is a function of the seed, the step and the pass's place in the global batch, as the order
of the data is: two devices draw what one device draws in two passes, and every variant draws the same. Whatever else
draws random numbers goes on from the states that a checkpoint keeps.
"""

import hashlib
import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seed_pass(seed: int, step: int, place: int) -> None:
    """Set torch's generators, on every device, for one forward and backward pass."""
    digest = hashlib.sha256(f"{seed}/pass/{step}/{place}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_states() -> dict[str, Tensor]:
    """The state of every generator of this process, each as a tensor of whole numbers on the CPU."""
    _, words, _ = random.getstate()
    numpy = np.random.get_state(legacy=False)
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words),
        "numpy": torch.tensor([*numpy["state"]["key"].tolist(), numpy["state"]["pos"]]),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Put the generators of this process back into these states; a generator of another kind of device is left out."""
    torch.set_rng_state(states["torch"].clone())  # a view into a larger tensor crashes torch
    random.setstate((3, tuple(states["python"].tolist()), None))
    *key, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].clone())
