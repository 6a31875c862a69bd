"""`import sinkpretrain as sp` in a notebook."""

import pytest
import torch

import sinkpretrain as sp
from sinkpretrain.errors import ConfigError, ResumeError
from sinkpretrain.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_config):
    return train(small_config({"model": {"tie_embeddings": True}}), tmp_path_factory.mktemp("runs") / "run")


def test_a_trained_model_comes_back_and_says_what_it_said(run, prose_store):
    model, tokenizer = sp.load_model(run.root)
    assert not model.training
    assert tokenizer.decode(tokenizer.encode("The if statement").ids) == "The if statement"
    from sinkpretrain.data.windows import Windows
    from sinkpretrain.model.llama import next_token_loss

    windows = Windows.of(prose_store, "validation", run.config())
    batch = windows.batch(windows.fixed(16))
    with torch.no_grad():
        nll = next_token_loss(model(batch.tokens_BT), batch.targets_BT)
    assert float(nll) / batch.targets_BT.numel() == pytest.approx(run.series("val/loss")[1][-1], rel=1e-6)


def test_an_earlier_checkpoint_is_another_model(run):
    last, _ = sp.load_model(run.root)
    earlier, _ = sp.load_model(run.root, step=8)
    assert not torch.equal(last.norm.gain, earlier.norm.gain)


def test_taps_and_weights_of_a_trained_model(run):
    model, _ = sp.load_model(run.root)
    tokens_BT = torch.arange(20)[None]
    with sp.record(model, "v", "mixed") as taps:
        model(tokens_BT)
    (first_row, weights_BHRS), *_ = sp.weight_rows(model, tokens_BT, layer=1)
    assert first_row == 0
    mixed_BTHD = torch.einsum("bhts,bshd->bthd", weights_BHRS, taps["v"][1])
    torch.testing.assert_close(mixed_BTHD, taps["mixed"][1])


def test_what_is_not_a_run_or_has_no_checkpoint_is_refused(tmp_path, run):
    with pytest.raises(ConfigError, match="is not a run folder"):
        sp.load_model(tmp_path)
    with pytest.raises(ResumeError, match="manifest.json is missing"):
        sp.load_model(run.root, step=7)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'load'; it has load_model, record"):
        _ = sp.load
