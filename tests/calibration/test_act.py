"""ACT on whole models: what it finds, what it leaves alone, and that nothing of it stays."""

from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close

import sinkpretrain as sp
from sinkpretrain.attention.base import Mask
from sinkpretrain.calibration import fused
from sinkpretrain.calibration.act import calibrate
from sinkpretrain.errors import ConfigError
from sinkpretrain.model.generation import generate
from sinkpretrain.model.llama import weight_rows
from sinkpretrain.taps import replace

LOOSE = {"alpha": 1.2}  # these models have few sinks by the paper's alpha


@contextmanager
def planted(model, position, layer=2, length=40.0):
    """Keys at one position of one layer point where its queries do: all heads attend to it."""

    def edit(k_BTGD):
        changed_BTGD = k_BTGD.clone()
        changed_BTGD[:, position] = 0
        changed_BTGD[:, position, :, 0] = length
        return changed_BTGD

    def point(q_BTHD):
        changed_BTHD = q_BTHD.clone()
        changed_BTHD[..., 0] = 1.0
        return changed_BTHD

    with replace(model, "k", edit, layer), replace(model, "q", point, layer):
        yield


def rows_of(model, tokens_BT, layer):
    return torch.cat([rows for _, rows in weight_rows(model, tokens_BT, layer)], dim=2)


def test_a_planted_sink_is_found_and_moved(model, tokens_BT):
    with planted(model, 7):
        before_BHTS = rows_of(model, tokens_BT, 2)
        with calibrate(model, [(2, 1)]) as act:
            after_BHTS = rows_of(model, tokens_BT, 2)
    assert act.sinks[2][:, 1, 7].all()
    assert act.sinks[2].sum() == 3, "the planted one, in the chosen head of each sequence, and no other"
    assert act.saw_sink == {(2, 1)}
    assert before_BHTS[:, 1, 8:, 7].min() > 0.5
    assert_close(after_BHTS[:, 1, 7:, 7], 0.4 * before_BHTS[:, 1, 7:, 7])
    assert_close(after_BHTS.sum(-1), torch.ones_like(after_BHTS.sum(-1)))
    assert torch.equal(after_BHTS[:, [0, 2, 3]], before_BHTS[:, [0, 2, 3]])
    with planted(model, 7), calibrate(model, [(2, 1)]) as act:
        model(tokens_BT)
    expected = 0.6 * before_BHTS[:, 1, :, 7].mean()
    assert act.moved_mass / act.rows == pytest.approx(float(expected), rel=1e-5)
    with planted(model, 7), calibrate(model, [(2, 1)], redistribution="uniform") as act:
        model(tokens_BT)
    assert act.moved_mass / act.rows == pytest.approx(float(expected), rel=1e-5), "on the explicit path too"


def test_a_planted_first_token_sink_is_left_alone(model, tokens_BT):
    with planted(model, 0):
        before_BTV = model(tokens_BT)
        assert rows_of(model, tokens_BT, 2)[..., 0].mean() > 0.5
        with calibrate(model, [(2, head) for head in range(4)]) as act:
            after_BTV = model(tokens_BT)
    assert not act.sinks[2].any()
    assert not act.saw_sink
    assert torch.equal(after_BTV, before_BTV)


def test_beta_one_is_the_identity_bit_for_bit_and_leaving_restores(any_model, tokens_BT):
    before_BTV = any_model(tokens_BT)
    with calibrate(any_model, **LOOSE, beta=1.0) as act:
        assert torch.equal(any_model(tokens_BT), before_BTV)
    assert act.saw_sink, "it still says where sinks are"
    with calibrate(any_model, **LOOSE):
        assert (any_model(tokens_BT) - before_BTV).abs().max() > 1e-3
    assert torch.equal(any_model(tokens_BT), before_BTV)
    with pytest.raises(RuntimeError), calibrate(any_model):
        raise RuntimeError
    assert torch.equal(any_model(tokens_BT), before_BTV)


def test_heads_without_sinks_and_unchosen_heads_stay_bit_for_bit(any_model, tokens_BT):
    before_BTV = any_model(tokens_BT)
    with calibrate(any_model, detection="absolute", threshold=0.999) as act:
        assert torch.equal(any_model(tokens_BT), before_BTV)
    assert not act.saw_sink
    with sp.record(any_model, "mixed") as plain:
        any_model(tokens_BT)
    with calibrate(any_model, [(2, 1)], **LOOSE), sp.record(any_model, "mixed") as taps:
        any_model(tokens_BT)
    assert torch.equal(taps["mixed"][2][:, :, [0, 2, 3]], plain["mixed"][2][:, :, [0, 2, 3]])


def test_sequences_of_a_batch_are_independent_and_padding_changes_nothing(any_model, tokens_BT):
    lengths = [40, 31, 22]
    with calibrate(any_model, **LOOSE) as act:
        alone = [any_model(tokens_BT[[b], :length])[0] for b, length in enumerate(lengths)]
        assert act.saw_sink
        place_T = torch.arange(40)
        right_BT = torch.where(place_T < torch.tensor(lengths)[:, None], 0, -1)
        together_BTV = any_model(tokens_BT, right_BT, shared_prompt=True)
        left_BT = right_BT.flip(1)
        shifted_BT = torch.stack([row.roll(40 - length) for row, length in zip(tokens_BT, lengths, strict=True)])
        shifted_BTV = any_model(shifted_BT, left_BT, shared_prompt=True)
    for b, length in enumerate(lengths):
        assert_close(together_BTV[b, :length], alone[b], atol=1e-4, rtol=1e-4)
        assert_close(shifted_BTV[b, 40 - length :], alone[b], atol=1e-4, rtol=1e-4)


def test_documents_of_a_window_are_calibrated_each_alone(any_model, tokens_BT):
    document_BT = torch.tensor([[0] * 15 + [1] * 25]).expand(3, -1)
    with calibrate(any_model, **LOOSE):
        packed_BTV = any_model(tokens_BT, document_BT)
        alone_BTV = torch.cat([any_model(tokens_BT[:, :15]), any_model(tokens_BT[:, 15:])], dim=1)
    assert_close(packed_BTV, alone_BTV, atol=1e-4, rtol=1e-4)


def test_answers_reach_neither_the_sinks_nor_each_other(any_model, tokens_BT):
    document_BT = torch.tensor([[0] * 20 + [1] * 8 + [2] * 12]).expand(3, -1)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 24:28] = 0
    with calibrate(any_model, **LOOSE) as act:
        both_BTV = any_model(tokens_BT, document_BT, shared_prompt=True)
        sinks = {layer: sinks_BHS[..., :20] for layer, sinks_BHS in act.sinks.items()}
        changed_BTV = any_model(changed_BT, document_BT, shared_prompt=True)
        second_BT = torch.cat([tokens_BT[:, :20], tokens_BT[:, 28:]], dim=1)
        alone_BTV = any_model(second_BT, torch.cat([document_BT[:, :20], document_BT[:, 28:]], 1), shared_prompt=True)
        any_model(tokens_BT[:, :20])
        of_prompt = act.sinks
    kept = [*range(24), *range(28, 40)]
    assert torch.equal(changed_BTV[:, kept], both_BTV[:, kept])
    assert_close(alone_BTV, both_BTV[:, [*range(20), *range(28, 40)]], atol=1e-4, rtol=1e-4)
    for layer, sinks_BHS in of_prompt.items():
        assert torch.equal(sinks_BHS, sinks[layer])


@pytest.mark.parametrize("way", [{}, {"to_first": False}, {"method": "inverse"}, {"method": "temperature"}], ids=str)
def test_generation_with_a_cache_gives_the_tokens_of_passes_without_one(any_model, tokens_BT, way):
    prompts = [tokens_BT[0, :20].tolist(), tokens_BT[1, :13].tolist(), tokens_BT[2, :7].tolist()]
    with calibrate(any_model, **LOOSE, **way):
        generated = generate(any_model, prompts, new_tokens=12)
        assert generated == [generate(any_model, [prompt], new_tokens=12)[0] for prompt in prompts]
        for prompt, answer in zip(prompts, generated, strict=True):
            for count in range(12):
                so_far_BT = torch.tensor([prompt + answer[:count]])
                document_BT = torch.tensor([[0] * len(prompt) + [1] * count])
                logits_BTV = any_model(so_far_BT, document_BT, shared_prompt=True)
                assert int(logits_BTV[0, -1].argmax()) == answer[count]
    plain = generate(any_model, prompts, new_tokens=12)
    assert len(plain[0]) == 12


def test_a_cache_from_outside_is_refused(model, tokens_BT):
    from sinkpretrain.model.llama import KeyValueCache

    cache = KeyValueCache()
    model(tokens_BT, cache=cache)
    with calibrate(model), pytest.raises(ConfigError, match="begun outside"):
        model(tokens_BT[:, :1], cache=cache)


def test_the_fused_path_gives_what_the_explicit_one_gives(model, tokens_BT, monkeypatch):
    monkeypatch.setattr(fused, "ROWS", 16)
    documents = (None, torch.tensor([[0] * 15 + [1] * 25]).expand(3, -1))
    for document_BT in documents:
        with calibrate(model, **LOOSE):
            fast_BTV = model(tokens_BT, document_BT)
            with torch.enable_grad():  # the explicit path, which can be differentiated
                slow_BTV = model(tokens_BT, document_BT)
        assert_close(fast_BTV, slow_BTV.detach(), atol=1e-4, rtol=1e-4)


def test_autocast_leaves_act_in_float32(model, tokens_BT):
    """Detection and redistribution of what enters attention, whatever precision the linear maps have."""
    recording, narrow = sp.record(model, "q", "k", "v", "mixed"), torch.autocast("cpu", torch.bfloat16)
    with recording as taps, narrow, calibrate(model, [(2, 1)], **LOOSE) as act:
        model(tokens_BT)
    q_BTHD, k_BTGD, v_BTGD = (taps[name][2].float() for name in ("q", "k", "v"))
    assert taps["q"][2].dtype == torch.bfloat16 and act.saw_sink
    with calibrate(model, [(2, 1)], **LOOSE):
        kind = model.blocks[2].attention.weights
        expected_BTHD = kind.mix(q_BTHD, k_BTGD, v_BTGD, Mask(40, tokens_BT.device))
    assert torch.equal(taps["mixed"][2][:, :, 1], expected_BTHD[:, :, 1].bfloat16())


def test_no_tensor_of_the_fused_path_is_quadratic_in_the_tokens(build):
    """Twice the tokens, twice the largest tensor; a T x T matrix would be four times as large."""
    model = build(context_length=4096, n_layers=4)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest[-1] = max(largest[-1], (tensor.numel(), str(function)))
            return out

    for tokens in (1024, 2048):
        largest.append((0, ""))
        tokens_BT = torch.randint(41, (1, tokens), generator=torch.Generator().manual_seed(0))
        with calibrate(model, alpha=3.0) as act, Watch():
            model.residual(tokens_BT)
        assert act.saw_sink
    assert largest[1][0] <= 2.1 * largest[0][0], largest


@pytest.mark.parametrize(
    ("heads", "changes", "message"),
    [
        ([(1, 0)], {}, "layer"),
        ([(4, 0)], {}, "layer"),
        ([(2, 4)], {}, "head"),
        ("all", {"last_layer": 5}, "last_layer"),
        ("all", {"alpha": 0.0}, "alpha"),
        ("all", {"beta": 1.5}, "beta"),
        ("all", {"method": "temperature", "redistribution": "uniform"}, "method"),
    ],
)
def test_what_does_not_exist_is_refused(model, heads, changes, message):
    with pytest.raises(ConfigError, match=message), calibrate(model, heads, **changes):
        pass


def test_receiving_positions_must_be_given(model, tokens_BT):
    with calibrate(model, **LOOSE, redistribution="question_only"), pytest.raises(ConfigError, match="receiving"):
        model(tokens_BT)


def test_calibrating_twice_is_refused(model):
    with calibrate(model), pytest.raises(ConfigError, match="calibrated already"), calibrate(model):
        pass


def test_positions_go_on_from_a_shared_prompt():
    mask = Mask(9, torch.device("cpu"), torch.tensor([[-1, 0, 0, 0, 1, 1, 2, 2, -1]]), shared_prompt=True)
    assert mask.position.tolist() == [[0, 0, 1, 2, 3, 4, 3, 4, 0]]
    assert mask.visible(7, 8)[0, 0, 0].tolist() == [False, True, True, True, False, False, True, True]
