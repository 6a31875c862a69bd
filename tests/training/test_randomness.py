"""The states of all generators, and dropout that does not depend on interruptions and devices."""

import random

import numpy as np
import pytest
import torch

from sinkpretrain.training.randomness import random_states, restore_random_states, seed_pass


def draw():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


@pytest.fixture(autouse=True)
def undisturbed():
    before = random_states()
    yield
    restore_random_states(before)


def test_every_generator_goes_on_from_its_state():
    draw()
    states = random_states()
    drawn = draw()
    assert draw() != drawn
    restore_random_states(states)
    assert draw() == drawn


def test_a_rank_restores_its_row_of_a_checkpoint():
    states = random_states()
    rows = {name: torch.stack([torch.zeros_like(state), state])[1] for name, state in states.items()}
    drawn = draw()
    restore_random_states(rows)
    assert draw() == drawn


def test_states_are_whole_numbers_in_tensors():
    """So that a checkpoint holds nothing but tensors."""
    assert {name: state.dtype for name, state in random_states().items()} == {
        "torch": torch.uint8,
        "python": torch.int64,
        "numpy": torch.int64,
    }


def test_a_pass_draws_by_its_seed_step_and_place_alone():
    def drawn(*place):
        draw()
        seed_pass(*place)
        return torch.rand(3).tolist()

    assert drawn(0, 5, 1) == drawn(0, 5, 1)
    several = [drawn(0, 5, 1), drawn(1, 5, 1), drawn(0, 6, 1), drawn(0, 5, 2), drawn(0, 51, 1), drawn(0, 1, 51)]
    assert len({tuple(numbers) for numbers in several}) == 6
