"""Whole runs of `train`, in this process, on real text."""

import importlib.metadata
import json
import math
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch

from sinkpretrain import checkpoints
from sinkpretrain.errors import ConfigError, DataError, NonFiniteError, Preempted, ResumeError, SinkpretrainError
from sinkpretrain.training import train as training
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.train import train

SPEED = ("seconds", "perf/tokens_per_s", "perf/mfu")


def without_speed(run):
    return [{name: value for name, value in row.items() if name not in SPEED} for row in run.metrics()]


def losses(run):
    return run.series("train/loss")[1]


def final_weights(run):
    return checkpoints.read(run.checkpoints, checkpoints.steps(run.checkpoints)[-1]).model


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_config):
    """A finished run of 12 steps."""
    return train(small_config(), tmp_path_factory.mktemp("runs") / "experiment" / "softmax-s0")


class Interrupt(StepCallback):
    """Sends this process a signal at one step, once."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_step(self, trainer, module):
        if module.step == self.step:
            self.step = None
            os.kill(os.getpid(), self.number)


@pytest.fixture
def with_callback(monkeypatch):
    """Let one more callback act before the others."""

    def add(callback):
        original = training._callbacks
        monkeypatch.setattr(training, "_callbacks", lambda *arguments: [callback, *original(*arguments)])

    return add


def test_validation_starts_at_chance_and_falls(finished, prose_store):
    steps, values = finished.series("val/loss")
    assert list(steps) == [0, 6, 12]
    assert values[0] == pytest.approx(math.log(prose_store.vocab_size), abs=0.1)
    assert values[0] - 0.3 > values[1] > values[2] + 0.1


def test_every_step_has_its_line(finished, small_config):
    steps, _ = finished.series("train/loss")
    assert list(steps) == list(range(1, 13))
    for row in finished.metrics():
        assert row["tokens"] == row["step"] * small_config().tokens_per_step
    assert {"optim/lr", "optim/grad_norm"} <= set(finished.metrics()[-1])
    assert finished.status()["state"] == "done"


def test_perplexity_and_bits_per_byte_follow_from_the_loss(finished, prose_store, small_config):
    last = finished.metrics()[-1]
    assert last["val/perplexity"] == pytest.approx(math.exp(last["val/loss"]))
    from sinkpretrain.data.windows import Windows

    windows = Windows.of(prose_store, "validation", small_config())
    targets_BT = windows.batch(windows.fixed(16)).targets_BT
    text_bytes = prose_store.token_bytes[targets_BT.numpy()].sum()
    nats = last["val/loss"] * targets_BT.numel()
    assert last["val/bits_per_byte"] == pytest.approx(nats / math.log(2) / text_bytes)


def test_probes_come_log_spaced_at_the_cadence_and_at_the_end(finished):
    assert finished.probe_steps() == [0, 1, 2, 4, 6, 8, 12]
    probe = finished.probe()
    assert probe["first_token_attention/raw"].shape == (2, 2)
    by_layer = probe["first_token_attention/raw"].mean(axis=1)
    last = finished.metrics()[-1]
    assert last["sink/layer_01"] == pytest.approx(by_layer[1])
    assert last["sink/first_token_mean"] == pytest.approx(by_layer.mean())
    assert last["rank/effective_mean"] == pytest.approx(probe["effective_rank/all"].mean())
    assert last["activation/dominance_mean"] == pytest.approx(probe["dominance_ratio/first"].mean())


def test_probing_does_not_change_training(tmp_path, finished, small_config):
    probes = {"log_spaced": False, "every": 12, "metrics": ["sink_rate"]}
    quiet = train(small_config({"probes": probes, "validation": {"every": 12}}), tmp_path / "quiet")
    assert np.array_equal(losses(quiet), losses(finished))


def test_the_run_folder_tells_where_it_comes_from(finished, prose_store):
    environment = json.loads((finished.root / "environment.json").read_text())
    assert environment["versions"]["torch"] == importlib.metadata.version("torch")
    assert json.loads(finished.data_manifest_path.read_text())["fingerprint"] == prose_store.fingerprint
    assert finished.config().model.vocab_size == prose_store.vocab_size


@pytest.mark.parametrize("weights", ["sigmoid", "kv_bias"])
def test_other_variants_see_the_same_data_and_train(tmp_path, finished, small_config, weights):
    run = train(small_config({"model": {"attention": {"weights": {"name": weights}}}}), tmp_path / weights)
    assert losses(run)[-1] < losses(run)[0] - 0.5
    assert not np.array_equal(losses(run), losses(finished))


def test_the_same_configuration_twice_is_bit_identical(tmp_path, finished, small_config):
    again = train(small_config({"name": "other", "variant": "another"}), tmp_path / "again")
    assert without_speed(again) == without_speed(finished)
    for name, weight in final_weights(again).items():
        assert torch.equal(weight, final_weights(finished)[name]), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_resuming_goes_on_exactly(tmp_path, finished, small_config, with_callback, number):
    before = signal.getsignal(number)
    with_callback(Interrupt(5, number))
    with pytest.raises(Preempted, match=f"{number.name} and saved at step 5"):
        train(small_config(), tmp_path / "run")
    assert signal.getsignal(number) == before
    run = train(small_config(), tmp_path / "run", resume=True)
    assert without_speed(run) == without_speed(finished)
    for name, weight in final_weights(run).items():
        assert torch.equal(weight, final_weights(finished)[name]), name


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("windows", [8, 2])
def test_resuming_is_exact_with_dropout_accumulation_and_workers(
    tmp_path, finished, small_config, with_callback, workers, windows
):
    """Also where something else has drawn random numbers meanwhile."""
    own = {"model": {"dropout": 0.2}, "micro_batch_size": windows, "data": {"workers": workers}}
    whole = train(small_config(own), tmp_path / "whole")
    assert losses(whole)[-1] < losses(whole)[0] - 0.3
    assert not np.array_equal(losses(whole), losses(finished))
    with_callback(Interrupt(5))
    with pytest.raises(Preempted):
        train(small_config(own), tmp_path / "run")
    torch.rand(7)
    run = train(small_config(own), tmp_path / "run", resume=True)
    assert without_speed(run) == without_speed(whole)
    for name, weight in final_weights(run).items():
        assert torch.equal(weight, final_weights(whole)[name]), name


def test_dropout_acts_in_training_alone(tmp_path, finished, small_config):
    run = train(small_config({"model": {"dropout": 0.2}}), tmp_path / "run")
    assert run.series("val/loss")[1][0] == finished.series("val/loss")[1][0]
    assert run.series("rank/effective_mean")[1][0] == finished.series("rank/effective_mean")[1][0]
    assert losses(run)[0] != losses(finished)[0]


def test_a_checkpoint_keeps_every_generator(tmp_path, small_config, with_callback):
    """What draws outside of passes, as a callback may, goes on where it was."""

    class Draw(StepCallback):
        def __init__(self):
            self.drawn = {}

        def on_step(self, trainer, module):
            self.drawn[module.step] = (random.random(), np.random.rand())

    draw = Draw()
    with_callback(draw)
    random.seed(3)
    np.random.seed(3)
    train(small_config(), tmp_path / "whole")
    whole = dict(draw.drawn)
    random.seed(3)
    np.random.seed(3)
    with_callback(Interrupt(5))
    with pytest.raises(Preempted):
        train(small_config(), tmp_path / "run")
    random.seed(99)
    np.random.seed(99)
    train(small_config(), tmp_path / "run", resume=True)
    assert draw.drawn == whole


def test_a_checkpoint_of_another_run_is_refused(tmp_path, finished, small_config, with_callback):
    with_callback(Interrupt(5))
    with pytest.raises(Preempted):
        train(small_config({"seed": 1}), tmp_path / "run")
    shutil.copytree(finished.checkpoints / "step_00000012", tmp_path / "run" / "checkpoints" / "step_00000012")
    with pytest.raises(ResumeError, match=r"step_00000012: is of a run that began at 2\S+, this one began"):
        train(small_config({"seed": 1}), tmp_path / "run", resume=True)


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path, small_config, with_callback):
    """Where no gradient shows it: an idle channel of the optimizer's state."""

    class Poison(StepCallback):
        def on_step(self, trainer, module):
            if module.step == 6:
                trainer.optimizers[0].state[module.model.norm.gain]["exp_avg_sq"][0] = float("inf")

    with_callback(Poison())
    with pytest.raises(NonFiniteError, match="step 8: AdamW's state is not finite; this step is not saved"):
        train(small_config(), tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [4]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fast_path_that_is_another_variant_never_trains(tmp_path, small_config, monkeypatch, precision):
    """In the precision of training: bf16's rounding passes, softmax in place of sigmoid does not."""
    from sinkpretrain.attention.weights.sigmoid import Sigmoid
    from sinkpretrain.attention.weights.softmax import Softmax

    own = {"precision": precision, "model": {"attention": {"weights": {"name": "sigmoid"}}}}
    train(small_config(own), tmp_path / "honest")
    monkeypatch.setattr(Sigmoid, "fused", Softmax.fused)
    with pytest.raises(SinkpretrainError, match="layer 0: what 'sigmoid' mixes is not its definition's"):
        train(small_config(own), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_run_notes_the_tokens_it_reads(tmp_path, finished, small_config, with_callback, monkeypatch):
    """The same for every variant and seed, and for a run that goes on; another order is refused."""
    from sinkpretrain.data.windows import Windows

    def noted(run):
        return json.loads(run.data_manifest_path.read_text())["token_hashes"]

    attention = {"weights": {"name": "sigmoid"}, "output": [{"name": "head_rmsnorm"}]}
    other = {"seed": 1, "model": {"attention": attention}}
    assert noted(train(small_config(other), tmp_path / "other")) == noted(finished)
    shuffled = train(small_config({"data": {"seed": 1}}), tmp_path / "shuffled")
    assert noted(shuffled)["train"] != noted(finished)["train"]
    assert noted(shuffled)["validation"] == noted(finished)["validation"]
    with_callback(Interrupt(5))
    with pytest.raises(Preempted):
        train(small_config(), tmp_path / "run")
    original = Windows.ids
    monkeypatch.setattr(Windows, "ids", lambda self, step, size: original(self, step + 1, size))
    with pytest.raises(ResumeError, match="was started on other windows of these tokens"):
        train(small_config(), tmp_path / "run", resume=True)


def test_a_run_records_what_its_weights_began_as(tmp_path, finished, small_config):
    began = json.loads(finished.initial_weights_path.read_text())
    other = train(small_config({"model": {"attention": {"output": [{"name": "head_rmsnorm"}]}}}), tmp_path / "other")
    for name, fingerprint in json.loads(other.initial_weights_path.read_text()).items():
        assert began.get(name, fingerprint) == fingerprint, name
    seed = train(small_config({"seed": 1}), tmp_path / "seed")
    assert json.loads(seed.initial_weights_path.read_text())["embedding.weight"] != began["embedding.weight"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_training_ends_at_once(tmp_path, small_config, monkeypatch, number):
    from sinkpretrain.data.store import TokenStore

    def verify(self):
        os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    before = signal.getsignal(number)
    monkeypatch.setattr(TokenStore, "verify", verify)
    with pytest.raises(Preempted, match=f"stopped by {number.name} before training") as caught:
        train(small_config(), tmp_path / "run")
    assert caught.value.exit_code == (130 if number == signal.SIGINT else 75)
    assert signal.getsignal(number) == before


def test_a_signal_in_the_first_validation_ends_before_the_first_step(tmp_path, small_config, monkeypatch):
    from sinkpretrain.training.callbacks.validation import Validation

    original = Validation.on_start

    def validate(self, trainer, module):
        original(self, trainer, module)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Validation, "on_start", validate)
        with pytest.raises(Preempted, match="stopped by SIGTERM before a step was made from step 0"):
            train(small_config(), tmp_path / "run")
    run = train(small_config(), tmp_path / "run", resume=True)
    assert [row["step"] for row in run.metrics()] == list(range(13))


def test_a_crash_costs_the_steps_since_the_last_checkpoint_and_no_more(tmp_path, finished, small_config, with_callback):
    class Crash(StepCallback):
        armed = True

        def on_step(self, trainer, module):
            if self.armed and module.step == 7:
                raise RuntimeError("power cut")

    crash = Crash()
    with_callback(crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(small_config(), tmp_path / "run")
    crash.armed = False
    run = train(small_config(), tmp_path / "run", resume=True)
    assert without_speed(run) == without_speed(finished)


def test_an_altered_checkpoint_is_named_and_the_older_used(tmp_path, finished, small_config, with_callback, caplog):
    with_callback(Interrupt(9))
    with pytest.raises(Preempted):
        train(small_config(), tmp_path / "run")
    newest = checkpoints.path_of(tmp_path / "run" / "checkpoints", 9) / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    run = train(small_config(), tmp_path / "run", resume=True)
    assert "model.safetensors was altered; using step 8. It was renamed to damaged_" in caplog.text
    assert (run.checkpoints / "damaged_step_00000009").is_dir()
    assert without_speed(run) == without_speed(finished)


def test_a_run_without_a_whole_checkpoint_is_not_started_over(tmp_path, small_config, with_callback):
    """Its record would be lost too."""
    with_callback(Interrupt(9))
    with pytest.raises(Preempted):
        train(small_config(), tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/optimizer.pt"):
        path.unlink()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ResumeError, match="has no whole checkpoint .*step_00000009: optimizer.pt is missing"):
        train(small_config(), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_accumulation_does_not_change_the_curve(tmp_path, finished, small_config):
    run = train(small_config({"micro_batch_size": 2}), tmp_path / "run")
    np.testing.assert_allclose(losses(run), losses(finished), rtol=2e-5)


def test_workers_do_not_change_the_curve(tmp_path, finished, small_config):
    run = train(small_config({"data": {"workers": 2}}), tmp_path / "run")
    assert np.array_equal(losses(run), losses(finished))


def test_bf16_trains_close_to_fp32(tmp_path, finished, small_config):
    run = train(small_config({"precision": "bf16"}), tmp_path / "run")
    assert not np.array_equal(losses(run), losses(finished))
    np.testing.assert_allclose(losses(run), losses(finished), rtol=0.02)  # bf16 keeps 8 bits of mantissa


def test_document_masks_with_bos_train(tmp_path, finished, small_config):
    run = train(small_config({"data": {"bos": "document", "document_mask": True}}), tmp_path / "run")
    assert losses(run)[-1] < losses(run)[0] - 0.5


@pytest.mark.slow
def test_compiled_training_follows_the_eager_curve(tmp_path, finished, small_config):
    run = train(small_config({"compile": True}), tmp_path / "run")
    np.testing.assert_allclose(losses(run), losses(finished), rtol=1e-4)
    assert run.probe_steps() == finished.probe_steps()


def test_a_non_finite_loss_stops_before_the_update_and_keeps_what_was(tmp_path, small_config, with_callback):
    class Poison(StepCallback):
        def on_step(self, trainer, module):
            if module.step == 6:
                with torch.no_grad():
                    module.model.norm.gain[0] = float("nan")

    with_callback(Poison())
    with pytest.raises(NonFiniteError, match=r"step 7: the loss .* is not finite; its windows are \d+, .* not made"):
        train(small_config({"validation": {"every": 12}, "probes": {"every": 12}}), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    assert checkpoints.steps(folder) == [4]
    assert all(weight.isfinite().all() for weight in checkpoints.read(folder, 4).model.values())
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_a_parameter_that_the_loss_does_not_depend_on_is_named(tmp_path, small_config, with_callback):
    class Plant(StepCallback):
        def on_start(self, trainer, module):
            module.model.spare = torch.nn.Parameter(torch.zeros(3))

    with_callback(Plant())
    with pytest.raises(SinkpretrainError, match="^spare: no gradient came, the loss does not depend on it"):
        train(small_config({"probes": {"log_spaced": False}}), tmp_path / "run")


def test_several_devices_need_a_process_each(tmp_path, small_config):
    with pytest.raises(ConfigError, match="devices: 2 need a process each; start them by the command"):
        train(small_config({"devices": 2}), tmp_path / "run")


def test_a_run_goes_on_with_other_micro_batches(tmp_path, finished, small_config, with_callback):
    """Placement is not identity: the new one is used, the file that says what the run is stays as it was."""
    with_callback(Interrupt(5))
    with pytest.raises(Preempted):
        train(small_config(), tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    run = train(small_config({"micro_batch_size": 2, "timeout": 5.0}), tmp_path / "run", resume=True)
    assert run.config_path.read_bytes() == before
    assert losses(run)[:5].tolist() == losses(finished)[:5].tolist()
    assert losses(run)[5:].tolist() != losses(finished)[5:].tolist()
    np.testing.assert_allclose(losses(run), losses(finished), rtol=2e-5)


def test_resume_takes_another_placement_and_nothing_else(finished, capsys):
    from sinkpretrain.cli.command import run

    resume = ["train", "--resume", str(finished.root), "--debug", "--dry-run", "--json"]
    assert run([*resume, "--micro_batch_size", "2", "--data.workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["accumulation"] == 4
    for other in (["--seed", "3"], ["--tokens", "512"], ["--out", "elsewhere"]):
        with pytest.raises(ConfigError, match="leave out --out and overrides, but for --devices, --nodes, --strategy"):
            run([*resume, *other])


def test_a_finished_run_is_left_alone(finished, small_config):
    before = finished.metrics_path.read_bytes()
    train(small_config(), finished.root, resume=True)
    assert finished.metrics_path.read_bytes() == before


def test_a_used_folder_is_refused(finished, small_config):
    with pytest.raises(ResumeError, match="holds a run already; continue it with --resume"):
        train(small_config(), finished.root)


def test_another_configuration_is_refused_with_its_difference(finished, small_config):
    with pytest.raises(ResumeError, match=r"optimizer.learning_rate was 0.01, is 0.02"):
        train(small_config({"optimizer": {"learning_rate": 0.02}}), finished.root, resume=True)


def test_a_folder_in_use_is_refused(tmp_path, small_config):
    from sinkpretrain.runs import Run

    with Run(tmp_path / "run").lock(), pytest.raises(ResumeError, match="in use by another process"):
        train(small_config(), tmp_path / "run")


def test_a_store_that_is_not_there_is_refused(tmp_path, small_config):
    with pytest.raises(DataError, match="sinkpretrain prepare"):
        train(small_config({"data": {"store": str(tmp_path / "nothing")}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_too_small_for_the_store_is_refused(tmp_path, small_config):
    with pytest.raises(ConfigError, match="model.vocab_size: 100 is smaller than the vocabulary"):
        train(small_config({"model": {"vocab_size": 100}}), tmp_path / "run")


def test_fp16_without_a_gpu_is_refused(tmp_path, small_config):
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        train(small_config({"precision": "fp16"}), tmp_path / "run")
