"""What an experiment costs before it is started: operations, and hours of a GPU at a stated share of its peak."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sinkpretrain.comparison.experiment import Member
from sinkpretrain.errors import check
from sinkpretrain.model.flops import count_parameters, flops_per_token
from sinkpretrain.training.callbacks.throughput import DATA_SHEET_PEAKS
from sinkpretrain.training.train import sized

MFU = 0.4  # the share of the peak that is reached, where the user does not say otherwise
GPUS = ("A100", "H100")


@dataclass(frozen=True, kw_only=True)
class VariantCost:
    """The runs of one variant together; operations of a forward and backward pass, see `model.flops`."""

    runs: int
    parameters: int
    tokens: int  # of all runs
    flops_per_token: float

    @property
    def flops(self) -> float:
        """Operations of all runs, without validation and probes."""
        return self.tokens * self.flops_per_token

    def gpu_hours(self, gpu: str, mfu: float) -> float:
        """Hours of one GPU of the kind (dense bf16 peak of its data sheet) at a share of its peak."""
        return self.flops / (DATA_SHEET_PEAKS[gpu] * mfu) / 3600


def costs(members: Sequence[Member], mfu: float = MFU) -> dict[str, VariantCost]:
    """The cost of each variant, in the order of the experiment.

    Raises:
        ConfigError: a share of the peak that is not between 0 and 1.
        DataError: a model takes its vocabulary from a token store that is not there.
    """
    check(0 < mfu <= 1, "--mfu", mfu, "0 < value <= 1")
    grouped: dict[str, list[Member]] = {}
    for member in members:
        grouped.setdefault(member.config.variant, []).append(member)
    models = {variant: sized(of[0].config).model for variant, of in grouped.items()}
    return {
        variant: VariantCost(
            runs=len(of),
            parameters=count_parameters(models[variant]),
            tokens=sum(member.config.steps * member.config.tokens_per_step for member in of),
            flops_per_token=flops_per_token(models[variant]),
        )
        for variant, of in grouped.items()
    }


def table(found: Mapping[str, VariantCost], mfu: float = MFU) -> str:
    """The costs as lines for people, with their sum."""
    width = max(len("in all"), *map(len, found)) + 2
    heads = "".join(f"{f'{gpu} hours':>12}" for gpu in GPUS)
    lines = [
        f"{'variant':<{width}}{'runs':>5}{'parameters':>14}{'tokens':>18}{'FLOPs a token':>15}{'FLOPs':>11}{heads}"
    ]
    for variant, cost in found.items():
        hours = "".join(f"{cost.gpu_hours(gpu, mfu):>12,.3g}" for gpu in GPUS)
        lines.append(
            f"{variant:<{width}}{cost.runs:>5}{cost.parameters:>14,}{cost.tokens:>18,}"
            f"{cost.flops_per_token / 1e6:>13,.4g} M{cost.flops:>11.3g}{hours}"
        )
    hours = "".join(f"{sum(cost.gpu_hours(gpu, mfu) for cost in found.values()):>12,.3g}" for gpu in GPUS)
    total = sum(cost.flops for cost in found.values())
    tokens, runs = sum(cost.tokens for cost in found.values()), sum(cost.runs for cost in found.values())
    lines.append(f"{'in all':<{width}}{runs:>5}{'':>14}{tokens:>18,}{'':>15}{total:>11.3g}{hours}")
    lines.append(
        f"hours of one GPU at {mfu:.0%} of its bf16 peak; validation, probes and waiting in a queue come on top"
    )
    return "\n".join(lines)
