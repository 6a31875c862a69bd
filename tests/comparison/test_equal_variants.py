import pytest

from sinkpretrain.comparison.verdicts import compare
from sinkpretrain.training.train import train

CLOCK = ("seconds", "perf/tokens_per_s", "perf/mfu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_config):
    """Two variants of one configuration, three seeds each, trained."""
    root = tmp_path_factory.mktemp("equal")
    short = {"tokens": 4 * 8 * 32, "validation": {"every": 2, "windows": 8}, "probes": {"every": 4, "windows": 4}}
    return [
        train(small_config({**short, "variant": variant, "seed": seed}), root / f"{variant}-s{seed}")
        for variant in ("one", "other")
        for seed in range(3)
    ]


def test_two_names_of_one_configuration_train_bit_for_bit_alike(runs):
    for one, other in zip(runs[:3], runs[3:], strict=True):
        records = [[{k: v for k, v in row.items() if k not in CLOCK} for row in run.metrics()] for run in (one, other)]
        assert records[0] == records[1]
        assert {"val/loss", "train/loss", "sink/rate_normalised", "rank/effective_mean"} <= records[0][-1].keys()


def test_compare_says_that_they_are_identical(runs):
    (pair,) = compare(runs)["pairs"]
    assert pair["seeds"] == [0, 1, 2]
    assert len(pair["effects"]) == 5
    assert {of["word"] for of in (*pair["effects"], pair["speed_up"])} == {"identical"}
    assert pair["speed_up"]["ratio"] == 1.0


def test_seeds_differ(runs):
    """So that what is equal above is not equal because nothing differs."""
    assert len({run.metrics()[-1]["val/loss"] for run in runs[:3]}) == 3
