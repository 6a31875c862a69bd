"""Training loss over training."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, recorded
from sinkpretrain.figures.base.loss import draw_loss


class TrainLoss(Figure):
    """Loss on the training batches as logged, in nats per token, against tokens, steps or wall time."""

    question = "Did every run train smoothly, without spikes or divergence?"
    over_training = True

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The whole run, and beside it the last third on its own scale."""
        return draw_loss(arms, x, "train/loss", "Training loss", "training loss (nats per token)")

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The last logged loss of each arm."""
        losses = each_arm(arms, recorded("train/loss"), ".4f")
        return f"A spike or a gap in a line is a run that became unstable; last loss in nats per token: {losses}."
