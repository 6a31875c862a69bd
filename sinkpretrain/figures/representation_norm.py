"""Norm of the first token beside the attention it draws, by layer (2605.06611, Figs. 3 and 18)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import (
    Arm,
    Axis,
    Point,
    each_arm,
    last_probe,
    layer_curves,
    no_record,
    probed_at,
    uniform_attention,
)
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import (
    baselines,
    canvas,
    draw_arm,
    draw_layers,
    from_zero,
    layer_axis,
    log_axis,
    plain,
)
from sinkpretrain.runs import Run


class RepresentationNorm(Figure):
    """Above, the norm of what each layer's attention reads; below, the attention to the first token, by variant."""

    question = "Does the sink begin in the layer whose input has a first token of outstanding norm?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The first token solid, the mean of the others dashed; row-normalised attention, uniform dotted."""
        if not any(layer_curves(arm, "representation_norm/first") for arm in arms):
            raise no_record(arms, "probe record 'representation_norm/first'")
        title = f"Norm and attention of the first token, {probed_at(arms)}"
        figure, panels = canvas(title, rows=2, columns=len(arms), height=5.4, sharex="col", sharey="row")
        uniform = uniform_attention(arms)
        for arm, (above, below) in zip(arms, panels.T, strict=True):
            above.set_title(plain(arm.name), loc="left")
            if layer_curves(arm, "representation_norm/first"):
                draw_layers(above, [arm], "representation_norm/first", "representation_norm/others")
            if curves := layer_curves(arm, "first_token_attention/normalised"):
                draw_arm(below, arm, curves)
            baselines(below, uniform)
            above.set_xlabel("")
            layer_axis(below)
        log_axis(panels[0, 0], "y")
        panels[0, 0].set_ylabel("norm of the layer's\ninput (l2)")
        panels[1, 0].set_ylabel("first-token attention\n(weight, rows sum to 1)")
        from_zero(*panels[1])
        legend(figure, arms, dashed="other tokens", dotted="uniform attention" if uniform else "")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The largest ratio of norms, for each arm."""
        ratios = each_arm(arms, _largest_ratio, ".1f")
        return f"In a sink both rows rise at the same layer; largest norm of the first token over the others: {ratios}."


def _largest_ratio(run: Run) -> Point | None:
    """The first token's norm over that of the others, in the layer where it is largest."""
    first, others = last_probe(run, "representation_norm/first"), last_probe(run, "representation_norm/others")
    if first is None or others is None:
        return None
    return Point(run.probe_steps()[-1], float(np.max(first / others)))
