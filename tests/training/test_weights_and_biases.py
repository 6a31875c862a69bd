"""Weights & Biases: the real library offline and against a server that never answers, and one that hangs or fails."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sinkpretrain.errors import Preempted
from sinkpretrain.runs import Run
from sinkpretrain.training import mirror as mirroring
from sinkpretrain.training import train as training
from sinkpretrain.training.callbacks import weights_and_biases
from sinkpretrain.training.callbacks.base import StepCallback
from sinkpretrain.training.callbacks.weights_and_biases import Mirror, sync_command
from sinkpretrain.training.mirror import chosen_mode
from sinkpretrain.training.train import train

wandb = pytest.importorskip("wandb")

ROOT = Path(__file__).parents[2]
OFFLINE = {"wandb": {"mode": "offline"}, "probes": {"metrics": ["sink_rate"]}}
DISABLED = {**OFFLINE, "wandb": {"mode": "disabled"}}
KEY = "c0ffee00decaf" + "0123456789" * 2 + "abcdef0"  # looks like a real one: 40 hexadecimal digits

# A `wandb` that writes down what it is asked, and hangs or fails where FAKE_WANDB says.
FAKE = """
import json, os, time

FAULT, LOG = os.environ["FAKE_WANDB"], os.environ["FAKE_WANDB_LOG"]

def met(call, *given):
    with open(LOG, "a") as log:
        print(json.dumps([call, *given]), file=log)
    if FAULT == f"{call} hangs":
        time.sleep(1e6)
    if FAULT == f"{call} fails":
        raise OSError(28, "No space left on device")

def Settings(**settings):
    return settings

def login(**options):
    return False

def teardown():
    met("teardown")

def init(**options):
    met("init", options)
    return Run(options)

class Run:
    offline = False

    def __init__(self, options):
        self.dir = options["dir"] + "/wandb/run-1-" + options["id"] + "/files"

    def log(self, line, step):
        met("log", step, line)

    def finish(self):
        met("finish")
"""


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """Puts it in the place of the real one, in mirrors that start from now on; gives what it was asked."""

    def install(fault="none"):
        folder, log = tmp_path / "fake", tmp_path / "asked.jsonl"
        folder.mkdir()
        (folder / "wandb.py").write_text(FAKE)
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
        monkeypatch.setenv("FAKE_WANDB", fault)
        monkeypatch.setenv("FAKE_WANDB_LOG", str(log))
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return install


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """No login and no settings of the user, whoever runs the tests."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


@pytest.fixture(scope="module")
def plain(tmp_path_factory, small_config):
    """The same run without W&B."""
    return train(small_config(DISABLED), tmp_path_factory.mktemp("plain") / "run")


def record(run):
    """Its lines, without what depends on the clock."""
    timed = ("seconds", "perf/tokens_per_s", "perf/mfu")
    return [{name: value for name, value in row.items() if name not in timed} for row in run.metrics()]


def processes_with(text):
    """Running processes whose command line or environment has the text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state != "Z" and text.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_every_line_of_the_record_is_mirrored(tmp_path, small_config, fake_wandb):
    asked = fake_wandb()
    attention = {"model": {"attention": {"weights": {"name": "sigmoid"}, "output": [{"name": "head_rmsnorm"}]}}}
    given = {**OFFLINE, **attention, "name": "trial", "variant": "softmax", "seed": 3}
    run = train(small_config(given), tmp_path / "sigmoid-lr0.01-s3")
    (_, options), *lines = asked()
    assert lines == [*(["log", row["step"], row] for row in run.metrics()), ["finish"], ["teardown"]]
    assert (options["group"], options["name"], options["mode"]) == ("trial", "sigmoid-lr0.01-s3", "offline")
    assert options["tags"] == ["softmax", "seed-3", "sigmoid", "head_rmsnorm"]
    assert options["config"]["model"]["n_layers"] == 2
    assert options["id"] == run.status()["wandb_id"]
    settings = options["settings"]
    assert settings["console"] == "off"
    assert settings["disable_git"] and settings["disable_code"] and settings["x_disable_meta"]


@pytest.mark.parametrize("fault", ["init fails", "log fails", "finish fails"])
def test_a_failing_mirror_costs_nothing(tmp_path, small_config, fake_wandb, caplog, plain, fault):
    fake_wandb(fault)
    mirrored = train(small_config(OFFLINE), tmp_path / "mirrored")
    assert mirrored.status()["state"] == "done"
    assert caplog.text.count("OSError: [Errno 28] No space left on device); training goes on without it") == 1
    assert record(mirrored) == record(plain)


@pytest.mark.parametrize(
    "fault", ["init hangs", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("log hangs", "finish hangs"))]
)
def test_a_hanging_mirror_costs_nothing(tmp_path, small_config, fake_wandb, monkeypatch, caplog, plain, fault):
    fake_wandb(fault)
    monkeypatch.setattr(weights_and_biases, "FINISH_SECONDS", 2.0)
    mirrored = train(small_config(OFFLINE), tmp_path / "mirrored")
    assert caplog.text.count("W&B did not finish within 2 s and was left") == 1
    assert "W&B failed" not in caplog.text
    assert record(mirrored) == record(plain)
    assert mirrored.status()["seconds"] < plain.status()["seconds"] + 5
    assert not processes_with(str(tmp_path / "asked.jsonl"))


def test_sending_never_waits_and_overflow_is_said_once(fake_wandb, nobody, monkeypatch, caplog):
    fake_wandb("log hangs")
    monkeypatch.setattr(weights_and_biases, "FINISH_SECONDS", 0.5)
    mirror = Mirror({"mode": "offline", "dir": str(nobody), "id": "a"})
    started = time.monotonic()
    for step in range(20_000):
        mirror.send(step, {"train/loss": 1.0})
    assert time.monotonic() - started < 1
    assert caplog.text.count("W&B is behind; lines from step") == 1
    assert not mirror.finish()
    assert time.monotonic() - started < 5
    assert not processes_with(str(nobody / "asked.jsonl"))


@pytest.mark.slow
def test_a_mirror_does_not_outlive_a_killed_training(fake_wandb, nobody):
    asked = fake_wandb("finish hangs")
    opening = json.dumps({"mode": "offline", "dir": str(nobody), "id": "a"})
    code = (
        "import os, signal, subprocess, sys\n"
        "words = [sys.executable, '-m', 'sinkpretrain.training.mirror']\n"
        "mirror = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)\n"
        f"mirror.stdin.write(b'{opening}\\n[1, {{}}]\\n'); mirror.stdin.flush(); mirror.stdout.readline()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -signal.SIGKILL
    end = time.monotonic() + mirroring.FINISH_SECONDS + 10
    while processes_with(str(nobody / "asked.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert asked()[1:] == [["log", 1, {}], ["finish"]]


@pytest.mark.parametrize(
    ("asked", "environment", "logged_in", "expected"),
    [
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("auto", "offline", True, "offline"),
        ("offline", None, True, "offline"),
        ("offline", "online", True, "offline"),
        ("online", None, False, "online"),
    ],
)
def test_the_mode_follows_the_login_and_the_environment(asked, environment, logged_in, expected):
    assert chosen_mode(asked, environment, logged_in) == expected


def test_wandb_mode_disabled_starts_nothing(tmp_path, small_config, fake_wandb, monkeypatch):
    fake_wandb()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = train(small_config({**OFFLINE, "wandb": {"mode": "auto"}}), tmp_path / "run")
    assert not (tmp_path / "asked.jsonl").exists()
    assert "wandb_id" not in run.status()


class StopAtStep5(StepCallback):
    stopped = False

    def on_step(self, trainer, module):
        if module.step == 5 and not self.stopped:
            self.stopped = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_an_offline_mirror_keeps_one_id_over_a_resume(small_config, nobody, monkeypatch, caplog):
    caplog.set_level("INFO")
    out = nobody / "a folder" / "run"
    stop, original = StopAtStep5(), training._callbacks
    monkeypatch.setattr(training, "_callbacks", lambda *arguments: [stop, *original(*arguments)])
    auto = {**OFFLINE, "wandb": {"mode": "auto"}}
    with pytest.raises(Preempted):
        train(small_config(auto), out)
    first = json.loads((out / "status.json").read_text())["wandb_id"]
    assert train(small_config(auto), out, resume=True).status()["wandb_id"] == first
    folders = sorted((out / "wandb").glob(f"offline-run-*-{first}"))
    assert len(folders) == 2
    said = [line for line in caplog.text.splitlines() if "upload with: " in line][-1]
    _, sync, *named = shlex.split(said.partition("upload with: ")[2])
    assert (sync, named) == ("sync", [str(folder) for folder in folders])
    wandb_command = Path(sys.executable).parent / "wandb"
    dry = subprocess.run([wandb_command, "sync", "--dry-run", *named], capture_output=True, text=True)
    assert "Would sync 2 run(s)" in dry.stdout + dry.stderr


def test_the_sync_command_names_what_is_not_uploaded(tmp_path):
    folder = tmp_path / "my runs" / "wandb"
    for name in ("offline-run-1-abc", "offline-run-2-abc", "offline-run-3-other", "run-4-abc"):
        (folder / name).mkdir(parents=True)
    (folder / "offline-run-1-abc" / "run-abc.wandb.synced").touch()
    last = sync_command(folder / "offline-run-2-abc", "abc", online=False)
    assert shlex.split(last) == ["wandb", "sync", str(folder / "offline-run-2-abc")]
    online = sync_command(folder / "run-4-abc", "abc", online=True)
    named = [str(folder / "offline-run-2-abc"), str(folder / "run-4-abc")]
    assert shlex.split(online) == ["wandb", "sync", "--include-online", *named]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "auto"])
def test_no_key_gets_into_the_run_folder(small_mapping, nobody, monkeypatch, mode):
    """With `auto` the user is logged in, at a server that takes connections and never answers."""
    keys = [KEY, KEY[::-1], "settings" + KEY[8:]]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", keys[0])
        (nobody / "netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {keys[1]}\n")
        (nobody / "netrc").chmod(0o600)
        (nobody / "home" / ".config" / "wandb").mkdir(parents=True)
        (nobody / "home" / ".config" / "wandb" / "settings").write_text(f"[default]\napi_key = {keys[2]}\n")
        config = nobody / "run.yaml"
        config.write_text(yaml.safe_dump({**small_mapping, "wandb": {"mode": mode}}))
        command = [sys.executable, "-m", "sinkpretrain", "train", "--config", str(config), "--out", str(nobody / "run")]
        with (nobody / "said.txt").open("w") as file:  # a pipe would wait for processes that are left behind
            ended = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, timeout=120)
        said = (nobody / "said.txt").read_text()
        assert ended.returncode == 0, said
        assert not any(processes_with(key) for key in keys)
    files = [path for path in (nobody / "run").rglob("*") if path.is_file()]
    if mode == "offline":
        assert [path for path in files if path.suffix == ".wandb" and path.stat().st_size > 1000]
    else:
        assert "W&B did not finish within 10 s and was left" in said
    assert len(files) > 10
    for key in keys:
        assert key not in said
        for path in files:
            assert key.encode() not in path.read_bytes(), path


def test_a_key_as_an_argument_is_refused_and_not_repeated(small_mapping, tmp_path, capsys):
    from sinkpretrain.cli import run

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(small_mapping))
    arguments = ["train", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]
    assert run([*arguments, "--wandb.api_key", KEY]) == 2
    said = capsys.readouterr()
    assert "wandb.api_key" in said.err
    assert KEY not in said.err + said.out
    assert not Run(tmp_path / "run").root.exists()
