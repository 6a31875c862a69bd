"""A pickle in place of weights, optimizer state, random state or arrays is refused, and never run."""

import hashlib
import json
import shutil

import evil
import numpy as np
import pytest

import sinkpretrain as sp
from sinkpretrain import checkpoints
from sinkpretrain.data.manifest import sealed
from sinkpretrain.errors import SinkpretrainError
from sinkpretrain.runs import Run

PICKLES = (evil.pickled, evil.saved_by_torch)


def last(run: Run):
    """The only checkpoint of a run, which is made one that was cut short."""
    *earlier, newest = checkpoints.steps(run.checkpoints)
    shutil.rmtree(checkpoints.path_of(run.checkpoints, newest))
    run.write_status("preempted", step=earlier[-1])
    return checkpoints.path_of(run.checkpoints, earlier[-1])


@pytest.mark.parametrize("name", ["optimizer.pt", "random.pt", "model.safetensors", "state.json"])
@pytest.mark.parametrize("make", PICKLES)
def test_a_signed_checkpoint(run, marker, refused, name, make):
    checkpoint = last(run)
    make(checkpoint / name, marker)
    evil.sign(checkpoint)
    assert checkpoints.problem(checkpoint) is None
    assert name in refused("train", "--resume", run.root, code=5)
    if name != "random.pt":
        assert name in refused("probe", run.root, "--metrics", "sink_rate", code=5)


@pytest.mark.parametrize("make", PICKLES)
@pytest.mark.parametrize("name", ["last.ckpt", "model.bin", "model.pt"])
def test_a_file_of_another_library(tmp_path, marker, refused, make, name):
    make(tmp_path / name, marker)
    assert "is a file, but not GGUF" in refused("import", tmp_path / name, tmp_path / "run", code=2)
    assert "is a file, but not GGUF" in refused("probe", tmp_path / name, code=2)
    with pytest.raises(SinkpretrainError, match="not GGUF"):
        sp.load_model(tmp_path / name)


def test_an_array_of_objects_in_a_token_store(prose_store, small_config, tmp_path, marker, refused):
    store = shutil.copytree(prose_store.root, tmp_path / "store")
    np.save(store / "token_bytes.npy", np.array([evil.Evil(marker)], dtype=object))
    content = (store / "token_bytes.npy").read_bytes()
    manifest = json.loads((store / "manifest.json").read_text())
    del manifest["format"], manifest["own_sha256"]
    manifest["files"]["token_bytes.npy"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (store / "manifest.json").write_bytes(sealed(manifest))
    (tmp_path / "config.yaml").write_text(f"data: {{store: {store}}}\n")
    assert "token_bytes.npy" in refused("train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "r", code=3)


def test_arrays_of_objects_in_records(run, tmp_path, marker, refused):
    step = run.probe_steps()[-1]
    np.savez(run.probe_path(step), **{"representation_norm/first": np.array([evil.Evil(marker)], dtype=object)})
    assert run.probe_path(step).name in refused("plot", "representation_norm", run.root, code=3)
    assert run.probe_path(step).name in refused("report", run.root, code=3)
    run.act_maps_path.parent.mkdir()
    np.savez(run.act_maps_path, heads=np.array([evil.Evil(marker)], dtype=object))
    assert "maps.npz" in refused("plot", "act_maps", run.root, code=3)


def test_the_canaries_would_sing(tmp_path):
    import pickle

    for number, make in enumerate(PICKLES):
        marker, path = tmp_path / f"marker_{number}", tmp_path / "file"
        make(path, marker)
        if make is evil.pickled:
            pickle.loads(path.read_bytes())
        else:
            import torch

            torch.load(path, **{"weights" + "_only": False})
        assert marker.is_dir()
