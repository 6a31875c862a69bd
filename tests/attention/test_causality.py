"""No logit depends on a later token, in value or in gradient; the same check catches models that leak.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, D head size,
C model width, V vocabulary.
"""

import pytest
import torch
from torch.testing import assert_close

from sinkpretrain.attention import base
from sinkpretrain.attention.base import OutputTransform
from sinkpretrain.attention.weights.softmax import Softmax

TOKENS, CUT = 14, 6


def assert_causal(model):
    """Logits before `CUT` neither move with the tokens from `CUT` on nor have a gradient there."""
    generator = torch.Generator().manual_seed(11)
    tokens_BT = torch.randint(model.config.vocab_size, (2, TOKENS), generator=generator)
    later_BT = tokens_BT.clone()
    later_BT[:, CUT:] = (tokens_BT[:, CUT:] + 5) % model.config.vocab_size

    embedded = []
    hook = model.embedding.register_forward_hook(lambda module, given, out: embedded.append(out) or out.retain_grad())
    logits_BTV = model(tokens_BT)
    hook.remove()
    changed_BTV = model(later_BT)
    assert_close(changed_BTV[:, :CUT], logits_BTV[:, :CUT])
    assert (changed_BTV[:, CUT:] - logits_BTV[:, CUT:]).abs().amax(dim=-1).min() > 1e-3, "it reaches later logits"

    logits_BTV[:, CUT - 1].square().sum().backward()
    gradient_BTC = embedded[0].grad
    assert (gradient_BTC[:, CUT:] == 0).all(), "a gradient flows back in time"
    assert (gradient_BTC[:, :CUT].abs().amax(dim=-1) > 0).all(), "every earlier token has a gradient"


@pytest.mark.parametrize("path", ["fused", "explicit", "blocks"])
def test_causal(attention, build_model, path, monkeypatch):
    model = build_model(attention)
    if path == "blocks":
        monkeypatch.setattr(base, "ROWS", 4)
    for block in model.blocks:
        block.attention.weights.uses_fused = path == "fused"
    assert_causal(model)


class PeeksOneAhead(Softmax):
    """Softmax whose mask is off by one."""

    uses_fused = False

    def weights(self, scores_BHRS, visible, q_BRHD):
        return super().weights(scores_BHRS, visible | torch.roll(visible, 1, dims=-1), q_BRHD)


class CentresOverPositions(OutputTransform):
    """Takes the mean over the whole sequence, later positions too."""

    def forward(self, mixed_BTHD, x_BTC):
        return mixed_BTHD - mixed_BTHD.mean(dim=1, keepdim=True)


class GradientLeak(OutputTransform):
    """Right in value, wrong in gradient."""

    def forward(self, mixed_BTHD, x_BTC):
        mean_BTHD = mixed_BTHD.mean(dim=1, keepdim=True)
        return mixed_BTHD + (mean_BTHD - mean_BTHD.detach())


def test_a_leak_is_caught(build_model):
    model = build_model({})
    model.blocks[1].attention.weights = PeeksOneAhead(model.blocks[1].attention.shape)
    with pytest.raises(AssertionError, match="not close"):
        assert_causal(model)


@pytest.mark.parametrize(("leak", "message"), [(CentresOverPositions, "not close"), (GradientLeak, "back in time")])
def test_a_leak_through_the_output_is_caught(build_model, leak, message):
    model = build_model({})
    model.blocks[0].attention.output.append(leak(model.blocks[0].attention.shape))
    with pytest.raises(AssertionError, match=message):
        assert_causal(model)
