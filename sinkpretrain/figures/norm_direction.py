"""What RMSNorm makes of a token that one channel dominates, by layer (2605.06611, section 4.3)."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, each_arm, probed, probed_at
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import canvas, draw_layers, from_zero

SHARE, COSINE = "norm_direction/top_share", "norm_direction/cosine"


class NormDirection(Figure):
    """Share of the normed token's energy in its largest channel, and its cosine between sequences, by layer."""

    question = "Does the norm before attention turn the first token into one fixed direction, whatever the text?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The first token solid, the other tokens dashed."""
        title = f"Direction of the normed tokens that attention reads, {probed_at(arms)}"
        figure, ((share, cosine),) = canvas(title, columns=2)
        dashed = draw_layers(share, arms, f"{SHARE}_first", f"{SHARE}_others")
        dashed |= draw_layers(cosine, arms, f"{COSINE}_first", f"{COSINE}_others")
        share.set_ylabel("energy in the largest channel (share)")
        cosine.set_ylabel("between sequences (mean cosine)")
        from_zero(share)
        legend(figure, arms, dashed="other tokens" if dashed else "")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The largest share over layers, and the mean cosine."""
        share = each_arm(arms, probed(f"{SHARE}_first", max), ".0%")
        cosine = each_arm(arms, probed(f"{COSINE}_first"), ".2f")
        others = each_arm(arms, probed(f"{COSINE}_others"), ".2f")
        return (
            "Solid lines near 1 are a first token whose key is the same for every text, which it also is where all "
            f"sequences begin with one token. Largest share over layers at the first token: {share}; cosine, mean "
            f"over layers: {cosine}; other tokens: {others}."
        )
