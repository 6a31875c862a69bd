"""The probe: what it runs on, what it leaves alone, and that batches and ranks do not show.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads.
"""

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sinkpretrain import registry
from sinkpretrain.attention.base import ROWS
from sinkpretrain.config import ProbesConfig
from sinkpretrain.data.windows import Batch
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.metrics.base import Inputs, Metric
from sinkpretrain.model.llama import Llama, ModelConfig, weight_rows
from sinkpretrain.probing import Probe

NAMES = registry.names("metrics")
TOKENS, VOCABULARY = 80, 40


def tokens_of(sequences):
    return torch.randint(VOCABULARY, (sequences, TOKENS), generator=torch.Generator().manual_seed(5))


def held_out(sequences):
    """In batches of uneven sizes."""
    tokens_BT = tokens_of(sequences)
    return [Batch(part, part, None) for part in tokens_BT.tensor_split([1, 4]) if len(part)]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model():
    return Llama(ModelConfig(vocab_size=VOCABULARY, n_layers=2, n_heads=2, d_model=8, d_ff=16, context_length=TOKENS))


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, err_msg=key, **tolerance)


def test_names_are_those_that_figures_and_records_rely_on(model):
    found = Probe(ProbesConfig().metrics, held_out=held_out).run(model)
    layers = [f"{kind}/layer_{layer:02d}" for kind in ("sink", "rank") for layer in range(2)]
    sinks = [f"sink/{name}{suffix}" for name in ("first_token_mean", "rate") for suffix in ("", "_normalised")]
    means = [*sinks, "rank/effective_mean", "activation/dominance_mean", "activation/neuron_peak_ratio"]
    assert sorted(found.scalars) == sorted(layers + means)
    assert {key.split("/")[0] for key in found.arrays} == set(ProbesConfig().metrics)
    for key in ("first_token_attention/uniform", "effective_rank/without_first", "positional_variance/discrepancy"):
        assert key in found.arrays


def test_summaries_are_means_of_the_arrays(model):
    found = Probe(["first_token_attention", "effective_rank"], held_out=held_out).run(model)
    raw_LH = found.arrays["first_token_attention/raw"]
    assert found.scalars["sink/first_token_mean"] == raw_LH.mean()
    assert found.scalars["sink/layer_01"] == raw_LH[1].mean()
    normalised_LH = found.arrays["first_token_attention/normalised"]
    assert found.scalars["sink/first_token_mean_normalised"] == normalised_LH.mean()
    assert found.scalars["rank/layer_00"] == found.arrays["effective_rank/all"][0]


def test_attention_is_that_of_the_model(model):
    arrays = Probe(["first_token_attention"], held_out=held_out, sequences=6).run(model).arrays
    for layer in range(2):
        first_BHT = torch.cat([rows[..., 0] for _, rows in weight_rows(model, tokens_of(6), layer)], dim=2)
        expected_H = first_BHT[..., 1:].double().mean(dim=(0, 2))
        np.testing.assert_allclose(arrays["first_token_attention/raw"][layer], expected_H, rtol=1e-6)


def test_batch_size_does_not_show(model):
    model = model.double()  # rounding of float32 products depends on their sizes
    whole = Probe(NAMES, held_out=held_out, sequences=7, batch_size=128).run(model)
    split = Probe(NAMES, held_out=held_out, sequences=7, batch_size=3).run(model)
    assert_same(split.arrays, whole.arrays, rtol=1e-9)
    assert_same(split.scalars, whole.scalars, rtol=1e-9)


@pytest.mark.parametrize("world", [2, 9])
def test_number_of_ranks_does_not_show(model, world):
    """Nine ranks share seven sequences: two of them have none and bring zeros."""
    model = model.double()
    probe = Probe(NAMES, held_out=held_out, sequences=7, batch_size=1)
    parts = []

    def keep(sums):
        parts.append(sums)
        return sums

    def add(sums):
        keep(sums)
        assert all(part.keys() == sums.keys() for part in parts)
        return {name: sum(part[name] for part in parts) for name in sums}

    for rank in range(world - 1):
        probe.run(model, rank=rank, world=world, reduce=keep)
    found = probe.run(model, rank=world - 1, world=world, reduce=add)
    assert all(value.dtype == torch.float64 for value in parts[0].values())
    assert_same(found.arrays, probe.run(model).arrays, rtol=1e-9)


def test_two_ranks_are_one_bit_for_bit(model):
    """In float32, with a batch more on one of them: each pass and sum is of the same numbers, in order."""
    probe = Probe(NAMES, held_out=held_out, sequences=7, batch_size=2)
    parts = []
    for rank in range(2):
        probe.run(model, rank=rank, world=2, reduce=lambda sums: parts.append(sums) or sums)
    two = probe.run(model, reduce=lambda _: {name: parts[0][name] + parts[1][name] for name in parts[0]})
    one = probe.run(model)
    assert two.scalars == one.scalars
    for name, array in one.arrays.items():
        assert np.array_equal(two.arrays[name], array, equal_nan=array.dtype.kind == "f"), name


def test_ranks_share_evenly(model):
    """Text that comes one sequence at a time is dealt round, not all to the first rank."""
    seen = []
    model.embedding.register_forward_hook(lambda module, tokens, out: seen.append(len(tokens[0])))
    batches = [Batch(row, row, None) for row in tokens_of(7).split(1)]
    shares = []
    for rank in range(3):
        Probe(["value_norm"], held_out=lambda _: batches).run(model, rank=rank, world=3)
        shares.append(sum(seen))
        seen.clear()
    assert shares == [3, 2, 2]


def test_measures_in_evaluation_mode_and_full_precision(model):
    def check(module, tokens, out):
        assert not module.training
        assert not torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "highest"

    model.train()
    model.embedding.register_forward_hook(check)
    torch.set_float32_matmul_precision("high")
    try:
        Probe(["value_norm"], held_out=held_out).run(model)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_model_and_random_numbers_are_left_alone(model):
    model.train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
    Probe(NAMES, held_out=held_out).run(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_float32_matmul_precision() == precision
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_the_model_is_left_alone_after_a_failure(model):
    def fails(sequences):
        yield held_out(sequences)[0]
        raise DataError("no more")

    model.train()
    with pytest.raises(DataError, match="no more"):
        Probe(["value_norm"], held_out=fails).run(model)
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_autocast_around_the_probe_does_not_show(model):
    probe = Probe(NAMES, held_out=held_out)
    expected = probe.run(model).arrays
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(probe.run(model).arrays, expected, rtol=0)


def test_equal_needs_share_a_pass(model):
    asked = []

    def counted(sequences):
        asked.append(sequences)
        return held_out(sequences)

    Probe(NAMES, held_out=counted, sequences=16).run(model)
    assert sorted(asked) == [16, 16, 100]  # the whole context, its first 64 tokens, those of 100 sequences


def test_effective_rank_takes_the_text_it_needs():
    """Four tokens a channel: 8 windows of 16 tokens at 32 channels, though the probe is set to one."""
    model = Llama(ModelConfig(vocab_size=VOCABULARY, n_layers=1, n_heads=2, d_model=32, d_ff=16, context_length=16))
    short = Probe(
        ["effective_rank", "dominance_ratio"], held_out=lambda n: [Batch(tokens_of(n)[:, :16], None, None)], sequences=1
    )
    assert short.run(model).arrays["effective_rank/tokens"] == 128


@pytest.mark.parametrize("has_documents", [False, True])
def test_tokens_cuts_the_windows(model, has_documents):
    """Records of windows cut to 20 tokens are those of windows that have no more."""

    def text(length):
        document_T = torch.arange(length) // 7 if has_documents else None
        for batch in held_out(16):
            documents = None if document_T is None else document_T.expand(len(batch.tokens_BT), -1)
            yield Batch(batch.tokens_BT[:, :length], batch.targets_BT[:, :length], documents)

    names = [name for name in NAMES if registry.load("metrics", name).inputs.text == "held_out"]
    cut = Probe(names, held_out=lambda _: text(TOKENS), tokens=20).run(model).arrays
    assert_same(cut, Probe(names, held_out=lambda _: text(20), tokens=20).run(model).arrays, rtol=0)
    assert cut["attention_score/score"].shape == (2, 2, 20)
    assert cut["attention_map/raw"].shape == (2, 20, 20)
    assert np.isnan(cut["attention_map/raw"][:, 7:]).all() == has_documents


def test_tokens_beyond_what_a_metric_reads_change_nothing_for_it(model):
    for tokens in (64, 70, TOKENS, None, 1000):
        found = Probe(["attention_map", "value_norm"], held_out=held_out, tokens=tokens).run(model).arrays
        assert found["attention_map/raw"].shape == (2, 64, 64)


def test_tokens_is_not_about_random_text(model):
    found = Probe(["positional_variance"], held_out=held_out, tokens=20).run(model).arrays
    assert found["positional_variance/mixed"].shape == (2, TOKENS)


def test_shorter_windows_are_more_for_effective_rank(model):
    """Four tokens a channel: 32 of them in windows of 5 tokens are 7 windows, of 20 tokens 2."""
    asked = []

    def counted(sequences):
        asked.append(sequences)
        return held_out(sequences)

    counts = [
        Probe(["effective_rank"], held_out=counted, sequences=1, tokens=tokens)
        .run(model)
        .arrays["effective_rank/tokens"]
        for tokens in (5, 20)
    ]
    assert asked == [7, 2]
    assert counts == [35, 40]


def test_texts_of_sink_tokens_are_beside_their_ids(model):
    probe = Probe(["sink_tokens", "value_norm"], held_out=held_out, token_text=lambda token: f"<{token}>")
    arrays = probe.run(model).arrays
    ids = arrays["sink_tokens/token"].astype(int).tolist()
    assert arrays["sink_tokens/text"].tolist() == [f"<{token}>" for token in ids]
    assert len(set(ids)) == 32
    for other in (Probe(["sink_tokens"], held_out=held_out), Probe(["value_norm"], held_out=held_out, token_text=str)):
        assert "sink_tokens/text" not in other.run(model).arrays


def test_sink_rate_reads_the_first_64_tokens(model):
    def changed(at):
        def text(sequences):
            tokens_BT = tokens_of(sequences)
            tokens_BT[:, at] = (tokens_BT[:, at] + 1) % VOCABULARY
            return [Batch(tokens_BT, tokens_BT, None)]

        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)  # scores spread widely: shares between 0 and 1
        return Probe(["sink_rate"], held_out=text).run(model).arrays

    expected = changed(70)
    assert_same(changed(79), expected, rtol=0)
    inside = changed(slice(0, 64))
    assert any(not np.array_equal(inside[key], expected[key]) for key in expected)


def test_text_of_windows_does_not_reach_random_metrics(model):
    def never(sequences):
        raise AssertionError("held-out text was asked for")

    arrays = Probe(["positional_variance"], held_out=never).run(model).arrays
    assert arrays["positional_variance/mixed"].shape == (2, TOKENS)


def test_random_text_leaves_the_separator_out_and_uses_every_other_token(model):
    seen = []
    model.embedding.register_forward_hook(lambda module, tokens, out: seen.append(tokens[0]))
    for separator in (None, 0, 7, VOCABULARY - 1):
        seen.clear()
        Probe(["positional_variance"], held_out=held_out, separator=separator).run(model)
        tokens = torch.cat(seen)
        assert tokens.shape == (64, TOKENS)
        assert set(tokens.unique().tolist()) == set(range(VOCABULARY)) - {separator}


def test_one_layers_tensors_exist_at_a_time(model):
    class Spy(Metric):
        taps = ("resid_in", "mixed")
        arrays = {}  # noqa: RUF012
        earlier = ()

        def measure(self, view):
            assert set(view.taps) == {"resid_in", "mixed"}
            assert view.attention is None
            assert all(reference() is None for reference in self.earlier)
            self.earlier = [weakref.ref(tensor) for tensor in view.taps.values()]
            return {"count": torch.ones((), dtype=torch.float64)}

        def finish(self, sums):
            return sums

    probe = Probe([], held_out=held_out, sequences=5, batch_size=2)
    probe.metrics["spy"] = Spy()
    assert probe.run(model).arrays["spy/count"].tolist() == [4.0, 4.0]  # batches: 1, then 2 and 1, then 1


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation gave, and of the most blocks of weights alive together."""

    def __init__(self, block):
        super().__init__()
        self.block, self.blocks = block, weakref.WeakSet()
        self.largest = self.most_blocks = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        if isinstance(given, torch.Tensor) and not func.is_view:
            self.largest = max(self.largest, given.numel())
            if (
                given.shape == self.block and func is torch.ops.aten.constant_pad_nd.default
            ):  # a block as `rows` gives it
                self.blocks.add(given)
                self.most_blocks = max(self.most_blocks, len(self.blocks))
        return given


@pytest.mark.parametrize("name", [name for name in NAMES if registry.load("metrics", name).reads_attention])
def test_no_map_of_all_heads_exists(name):
    """Neither one T x T tensor of all heads nor the blocks that it would be made of, also where a metric reads them."""
    heads, tokens = 4, 4 * ROWS
    size = {"n_layers": 1, "n_heads": heads, "d_model": 16, "d_ff": 16, "context_length": tokens}
    model = Llama(ModelConfig(vocab_size=VOCABULARY, **size))
    text_BT = torch.randint(VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(5))
    probe = Probe([name], held_out=lambda _: [Batch(text_BT, text_BT, None)], sequences=1)
    probe.metrics[name].inputs = Inputs()  # the whole context, whatever the metric asks for
    with Largest((1, heads, ROWS, tokens)) as watched:
        probe.run(model)
    assert watched.largest <= heads * ROWS * tokens
    assert 1 <= watched.most_blocks <= 2  # the one in hand while the next is made


def test_a_metric_sees_the_weights_of_its_layer_and_the_tokens_of_its_batch(model):
    class Spy(Metric):
        reads_attention = True
        arrays = {}  # noqa: RUF012
        seen: list = []  # noqa: RUF012

        def measure(self, view):
            block = model.blocks[view.layer]
            assert torch.equal(view.matrices["w_q"], block.attention.w_q.weight)
            assert torch.equal(view.matrices["w_down"], block.mlp.w_down.weight)
            assert view.vocab_size == VOCABULARY
            [(row, weights_BHTS)] = view.rows()
            assert row == 0
            self.seen.append((view.layer, view.tokens_BT, weights_BHTS))
            return {"count": torch.ones((), dtype=torch.float64)}

        def weigh(self, matrices):
            return {"down": matrices["w_down"].double().sum()}

        def finish(self, sums):
            return sums

    probe = Probe([], held_out=held_out, sequences=5, batch_size=2)
    probe.metrics["spy"] = Spy()
    found = probe.run(model).arrays
    assert found["spy/down"].tolist() == [block.mlp.w_down.weight.double().sum().item() for block in model.blocks]
    for layer in range(2):
        tokens, weights = zip(*(seen for of, *seen in Spy.seen if of == layer), strict=True)
        [(_, expected_BHTS)] = weight_rows(model, tokens_of(5), layer)
        assert torch.equal(torch.cat(tokens), tokens_of(5))
        torch.testing.assert_close(torch.cat(weights), expected_BHTS)


def test_refusals_say_what_to_do(model):
    with pytest.raises(ConfigError, match=r"choose one of .*sink_rate"):
        Probe(["sink_rat"], held_out=held_out)
    for name in ("batch_size", "sequences", "tokens"):
        with pytest.raises(ConfigError, match=f"{name}: 0"):
            Probe(["sink_rate"], held_out=held_out, **{name: 0})
    with pytest.raises(DataError, match="no held-out text"):
        Probe(["sink_rate"], held_out=lambda _: []).run(model)
    with pytest.raises(ConfigError, match=r"bfloat16.*model\.float\(\)"):
        Probe(["sink_rate"], held_out=held_out).run(model.bfloat16())
