"""How many directions the token representations of a layer fill.

Shapes use B batch, T positions, N tokens of all sequences, C model width, L layers.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sinkpretrain.metrics.base import Arrays, Inputs, LayerView, Metric, Sums, by_layer, double


class EffectiveRank(Metric):
    """exp(-sum p ln p), p = sigma / sum sigma, sigma the singular values of the N x C matrix of `resid_out`.

    Between 1 and C, no unit (Roy and Vetterli 2007; 2605.06611, Fig. 15). `all`: every token, not centred. `centred`:
    the tokens' mean subtracted. `without_first`: without position 0 of each document, not centred. `tokens`: N, 4 C or
    more where there is that much text; fewer tokens lower the rank by themselves. NaN where activations are not finite.

    Singular values come from C x C Gram matrices, which add up over batches and ranks. They are float64 because
    squaring in float32 loses the small directions beside a token of 1e4 times the norm of the others.
    """

    inputs = Inputs(tokens_per_channel=4)
    taps = ("resid_out",)
    arrays: ClassVar[dict[str, str]] = {"all": "L", "centred": "L", "without_first": "L", "tokens": ""}

    def measure(self, view: LayerView) -> Sums:
        """Gram matrices [C, C], sums [C] and counts of the first tokens and of the others, kept apart.

        Taking the first tokens' share out of the whole afterwards would cancel where they are the large ones.
        """
        sums = {}
        for name, chosen_BT in (("first", view.first_BT), ("others", ~view.first_BT)):
            resid_NC = double(view.taps["resid_out"][chosen_BT])
            sums[f"{name}_gram"] = resid_NC.T @ resid_NC
            sums[f"{name}_sum"] = resid_NC.sum(dim=0)
            sums[f"{name}_count"] = double(chosen_BT.sum())
        return sums

    def finish(self, sums: Arrays) -> Arrays:
        """Effective ranks from the eigenvalues of the Gram matrices, layer by layer."""
        gram_LCC = sums["first_gram"] + sums["others_gram"]
        sum_LC = sums["first_sum"] + sums["others_sum"]
        count_L = sums["first_count"] + sums["others_count"]
        with np.errstate(invalid="ignore"):  # infinite activations: the rank reads NaN
            centred_LCC = gram_LCC - np.einsum("lc,ld->lcd", sum_LC, sum_LC) / count_L[:, None, None]
        return {
            "all": _ranks(gram_LCC),
            "centred": _ranks(centred_LCC),
            "without_first": _ranks(sums["others_gram"]),
            "tokens": np.asarray(count_L[0]),
        }

    def scalars(self, arrays: Arrays) -> dict[str, float]:
        """The mean over layers, and each layer, of all tokens and not centred."""
        return {"rank/effective_mean": float(arrays["all"].mean()), **by_layer("rank", arrays["all"])}


def effective_rank(gram_CC: NDArray[np.float64]) -> float:
    """The effective rank of any matrix with this Gram matrix; 0 of a zero matrix, NaN where it is not finite."""
    if not np.isfinite(gram_CC).all():
        return float("nan")
    sigma_C = np.sqrt(np.linalg.eigvalsh(gram_CC).clip(min=0.0))
    if not sigma_C.any():
        return 0.0
    p_C = sigma_C[sigma_C > 0] / sigma_C.sum()
    return float(np.exp(-(p_C * np.log(p_C)).sum()))


def _ranks(gram_LCC: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([effective_rank(gram_CC) for gram_CC in gram_LCC])
