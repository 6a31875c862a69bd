"""The shape that figures of a loss share: the whole of training, and its end enlarged."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base.arms import Arm, Axis
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import canvas, draw_training

END_OF_TRAINING = 0.6  # where the enlarged part starts, as a fraction of the longest run


def draw_loss(arms: Sequence[Arm], x: Axis, metric: str, title: str, label: str) -> Canvas:
    """A loss over training, and beside it the end of training on its own scale, where variants differ by hundredths."""
    figure, ((whole, end),) = canvas(title, columns=2, width_ratios=[3, 2])
    for axes in (whole, end):
        draw_training(axes, arms, x, metric)
    whole.set_ylabel(label)
    lines = [np.column_stack(line.get_data()) for line in end.lines]
    start = END_OF_TRAINING * max(line[:, 0].max() for line in lines if len(line))
    losses = np.concatenate([line[line[:, 0] >= start, 1] for line in lines])
    losses = losses[np.isfinite(losses)]
    end.set_xlim(left=start)
    if len(losses):
        margin = 0.05 * (losses.max() - losses.min()) or 0.05
        end.set_ylim(losses.min() - margin, losses.max() + margin)
    end.set_title("the end, enlarged", loc="left")
    legend(figure, arms)
    return figure
