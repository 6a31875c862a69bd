"""Local data for tasks."""

import os
from pathlib import Path

import datasets
import pytest
from invented_items import ROWS, rows, write_rows


@pytest.fixture(autouse=True, scope="session")
def dataset_cache(tmp_path_factory):
    """What `datasets` makes of JSON lines goes with the tests."""
    before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def invented(tmp_path_factory):
    """A data folder with 240 test and 40 calibration items of every task that has a dataset."""
    folder = tmp_path_factory.mktemp("invented")
    for task in ROWS:
        write_rows(folder, task, test=rows(task, 0, 240), calibration=rows(task, 300, 340))
    return folder


@pytest.fixture(scope="session")
def real_items():
    """The folder of real items, where there is one."""
    folder = Path(os.environ.get("SINKPRETRAIN_TEST_DATA", "")) / "eval"
    if "SINKPRETRAIN_TEST_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("SINKPRETRAIN_TEST_DATA is not set, or has no folder eval: no real items")
    return folder
