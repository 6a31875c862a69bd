"""Recorded runs to draw."""

from pathlib import Path

import pytest
from synthetic_runs import write_runs

from sinkpretrain.runs import Run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three variants, the first two seeds of each, all done; to be read only."""
    return write_runs(Path(tmp_path_factory.mktemp("runs")))
