"""What the figure of verdicts must show of a run, for the contract."""

import numpy as np
from artists import artists, beside

from sinkpretrain.comparison.outcomes_of_runs import LOSS, PROBED


def verdicts(canvas, variant, of):
    marks = artists(canvas, variant)
    for line, metric in zip(marks, (LOSS, *PROBED), strict=False):
        values = [run.series(metric)[1][-1] for run in of]
        np.testing.assert_allclose(line.get_xdata(), [np.mean(values)])
        row = line.get_ydata()[0]
        seeds = [dots for dots in beside(line, "_dot") if np.allclose(dots.get_ydata(), row + 0.24)]
        assert [dots.get_xdata().tolist() for dots in seeds] == ([values] if len(of) > 1 else [])
    assert len(marks) == 2 + len(PROBED)  # of them all, and the speed


EXPECTED = {"verdicts": verdicts}
