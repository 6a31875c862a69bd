"""What is probed: which checkpoint, which text, and a record that is the one of training."""

import json

import numpy as np
import pytest
import torch
import yaml

from sinkpretrain.errors import ConfigError, DataError, ResumeError
from sinkpretrain.runs import Run
from sinkpretrain.subject import TextRequest, open_run, open_subject, steps_of


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    lines = [
        json.dumps({"text": f"{number} if the while loop ends, {'the else clause runs ' * 30}"}) for number in range(40)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def imported(small_run, tmp_path):
    """A run folder as `import` leaves it: no token store, a tokenizer of its own."""
    run = Run(tmp_path / "models" / "small")
    run.root.mkdir(parents=True)
    (run.root / "checkpoints").symlink_to(small_run.checkpoints.resolve())
    mapping = yaml.safe_load(small_run.config_path.read_text())
    mapping["data"]["store"] = ""
    run.config_path.write_text(yaml.safe_dump(mapping))
    store = small_run.config().data.store
    run.tokenizer_path.write_bytes((Run(store).root / "tokenizer.json").read_bytes())
    run.source_path.write_text(json.dumps({"source": "owner/small", "bos_id": 3, "separator_id": 0}))
    return run


def test_the_held_out_record_is_the_one_of_training(small_run):
    """The same windows, lengths and metrics: `probe` on a run's own text can be read with what training recorded."""
    config = small_run.config()
    step = steps_of(small_run, "last")[0]
    subject = open_subject(small_run, step, TextRequest())
    found = subject.probe(config.probes.metrics, config.probes.windows, batch_size=3)
    recorded = small_run.probe(step)
    assert json.loads(str(recorded["about"])) == subject.about
    for name, value in found.arrays.items():
        np.testing.assert_allclose(value, recorded[name], rtol=1e-6, atol=1e-9, err_msg=name)
    last = small_run.metrics()[-1]
    assert found.scalars["sink/first_token_mean"] == pytest.approx(last["sink/first_token_mean"], rel=1e-6)


def test_the_loss_is_the_validation_loss(small_run):
    config = small_run.config()
    subject = open_subject(small_run, steps_of(small_run, "last")[0], TextRequest())
    found = subject.probe(["dominance_ratio"], config.validation.windows, batch_size=4)
    assert found.scalars["text/loss"] == pytest.approx(small_run.series("val/loss")[1][-1], rel=1e-6)
    assert found.scalars["text/perplexity"] == pytest.approx(np.exp(found.scalars["text/loss"]))


def test_checkpoints_are_named_by_step_last_or_all(small_run):
    assert steps_of(small_run, "all") == [8, 12]
    assert steps_of(small_run, "last") == [12]
    assert steps_of(small_run, "8") == [8]
    models = [open_subject(small_run, step, TextRequest()).model for step in (8, 12)]
    assert not torch.equal(models[0].norm.gain, models[1].norm.gain)
    with pytest.raises(ConfigError, match=r"'first' is not a step, 'last' or 'all'; there are \[8, 12\]"):
        steps_of(small_run, "first")
    with pytest.raises(ResumeError, match="step_00000005"):
        open_subject(small_run, 5, TextRequest())


def test_named_text_its_length_and_bos(small_run, text):
    subject = open_subject(small_run, 12, TextRequest(path=text, tokens=16, bos="window"))
    (batch,) = subject.held_out(1)
    assert batch.tokens_BT.shape == (1, 16)
    assert batch.tokens_BT[0, 0] == subject.separator
    assert subject.about["text"] == str(text)
    assert (subject.about["tokens"], subject.about["bos"]) == (16, "window")
    assert len(subject.about["fingerprint"]) == 64
    with pytest.raises(ConfigError, match=r"--tokens: 64 is out of range; allowed: 2 .. 32"):
        open_subject(small_run, 12, TextRequest(tokens=64))


def test_an_imported_model_needs_text_and_uses_its_own_tokens(imported, text):
    with pytest.raises(ConfigError, match="has no held-out text; name some with --text FILE"):
        open_subject(imported, 12, TextRequest())
    assert open_subject(imported, 12, TextRequest(path=text)).separator == 0
    assert open_subject(imported, 12, TextRequest(path=text, bos="window")).separator == 3
    assert (
        open_subject(imported, 12, TextRequest(path=text)).probe(["sink_tokens"], 4, 4).arrays["sink_tokens/text"].size
    )


def test_records_of_different_texts_are_not_mixed(small_run, text, tmp_path):
    other = Run(tmp_path / "other")
    other.create(small_run.config())
    about = open_subject(small_run, 12, TextRequest()).about
    other.add_probe(12, {"a/x": np.ones(2)}, about)
    other.add_probe(12, {"b/x": np.ones(2), "a/x": np.zeros(2)}, about)
    record = other.probe(12)
    assert set(record) == {"a/x", "b/x", "about"}
    assert record["a/x"].tolist() == [0, 0]
    elsewhere = open_subject(small_run, 12, TextRequest(path=text)).about
    with pytest.raises(ConfigError, match="was measured on another text .*text was 'held-out'.*give --out FOLDER"):
        other.add_probe(12, {"a/x": np.ones(2)}, elsewhere)


def test_a_source_that_was_imported_before_is_found_and_another_of_the_same_name_refused(imported, monkeypatch):
    monkeypatch.chdir(imported.root.parents[1])
    monkeypatch.setattr("sinkpretrain.subject.MODELS", imported.root.parent)
    assert open_run("owner/small").root == imported.root
    assert open_run(imported.root).root == imported.root
    with pytest.raises(ConfigError, match="holds the model of owner/small; import other/small to another folder"):
        open_run("other/small")
    with pytest.raises((ConfigError, DataError)):
        open_run("nowhere/at/all")
