"""Every parameter of every variant learns: a gradient that is not zero, and another value after one step."""

import pytest
import torch

from sinkpretrain.errors import ConfigError
from sinkpretrain.model.llama import next_token_loss


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_parameter_learns(attention, build_model, tied):
    model = build_model(attention, tie_embeddings=tied)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # Without weight decay, so that only a gradient can move a parameter.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    tokens_BT = torch.randint(23, (2, 12), generator=torch.Generator().manual_seed(12))
    next_token_loss(model(tokens_BT[:, :-1]), tokens_BT[:, 1:]).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter - before[name]).abs().max() > 1e-6, name


def test_a_kind_brings_the_parameters_of_its_definition(build_model):
    def own(attention):
        return {
            name.removeprefix("blocks.0.attention."): tuple(parameter.shape)
            for name, parameter in build_model(attention).named_parameters()
            if name.startswith(("blocks.0.attention.weights", "blocks.0.attention.output"))
        }

    assert own({"weights": {"name": "softmax"}}) == {}
    assert own({"weights": {"name": "sigmoid", "normalize": True}}) == {}
    assert own({"weights": {"name": "softmax_off_by_one"}}) == {}
    assert own({"weights": {"name": "learned_sink"}}) == {"weights.sink_H": (4,)}
    assert own({"weights": {"name": "kv_bias"}}) == {"weights.key_HD": (4, 6)}
    both = {"weights.key_HD": (4, 6), "weights.value_HD": (4, 6)}
    assert own({"weights": {"name": "kv_bias", "value": "learned"}}) == both
    assert own({"output": [{"name": "head_rmsnorm"}]}) == {"output.0.gain": (6,)}
    assert own({"output": [{"name": "gate"}]}) == {"output.0.projection.weight": (24, 24)}


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ({"weights": {"name": "softmax", "bias": "zero"}}, r"model\.attention\.weights\.bias.*no such option.*none"),
        ({"weights": {"name": "sigmoid", "bais": "zero"}}, r"weights\.bais.*bias, normalize"),
        ({"weights": {"name": "sigmoid", "bias": "one"}}, r"\.bias: 'one' is not one of zero, minus_log_context"),
        ({"weights": {"name": "sigmoid", "normalize": 1}}, r"weights\.normalize: 1 is not true or false"),
        ({"weights": {"name": "kv_bias", "value": 0}}, r"weights\.value: 0 is not one of zero, learned"),
        ({"output": [{"name": "gate"}, {"name": "head_rmsnorm", "gain": 2}]}, r"output\[1\]\.gain: 2 is not one of"),
        ({"output": [{"name": "norm"}]}, r"attention\.output: name 'norm' is not one of gate, head_rmsnorm"),
        ({"weights": {"bias": "zero"}}, r"attention\.weights\.bias: 'softmax' has no such option"),
        ({"weights": {"name": None}}, r"attention\.weights: name None is not one of kv_bias, learned_sink"),
    ],
)
def test_wrong_options_are_refused(build_model, attention, message):
    with pytest.raises(ConfigError, match=message):
        build_model(attention)
