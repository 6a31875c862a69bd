"""Validation loss over training (2605.06611, Fig. 16)."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, recorded
from sinkpretrain.figures.base.loss import draw_loss


class ValidationLoss(Figure):
    """Loss on the held-out windows, in nats per token, against tokens, steps or wall time."""

    question = "Does a design without a sink learn as fast as softmax attention?"
    over_training = True

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The whole run, and beside it the last third on its own scale, where variants differ by hundredths."""
        return draw_loss(arms, x, "val/loss", "Validation loss", "validation loss (nats per token)")

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The last loss of each arm."""
        losses = each_arm(arms, recorded("val/loss"), ".4f")
        return f"Lower is better, as far as a gap exceeds the spread of seeds; last loss in nats per token: {losses}."
