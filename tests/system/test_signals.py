"""A signal while something is read stops the run; what is read is not taken for damaged."""

import io
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import orbax.checkpoint as ocp
import pytest

from sskd_jax.data import prepared
from sskd_jax.exchange import torch_file
from sskd_jax.system import early, safe_pickle
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Stopped
from sskd_jax.workdir.checkpoint import Checkpoints, read_newest


def interrupted(*args, **kwargs):
    """In place of what reads: a signal comes in the middle of it."""
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the signal came too late")


@pytest.fixture
def two_checkpoints(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save({"step": np.int32(step), "weights": np.ones(3)}, score=float(-step))
    return tmp_path


@pytest.mark.parametrize("read", [Checkpoints.newest, Checkpoints.best])
def test_a_checkpoint_that_is_being_read_keeps_its_name(two_checkpoints, monkeypatch, read):
    before = sorted(os.listdir(two_checkpoints))
    with Checkpoints(two_checkpoints) as checkpoints, monkeypatch.context() as patched:
        patched.setattr(ocp.StandardCheckpointer, "restore", interrupted)
        with pytest.raises(Stopped, match="SIGTERM"), Interruption():
            read(checkpoints)
    assert sorted(os.listdir(two_checkpoints)) == before
    with Checkpoints(two_checkpoints) as checkpoints:
        assert int(read(checkpoints)["step"]) in (1, 2)


def test_another_runs_checkpoint_is_not_called_damaged(two_checkpoints, monkeypatch):
    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", interrupted)
    with pytest.raises(Stopped), Interruption():
        read_newest(two_checkpoints)


def test_a_pytorch_file_is_not_called_unreadable(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"PK")
    monkeypatch.setattr(zipfile, "ZipFile", interrupted)
    with pytest.raises(Stopped), Interruption():
        torch_file.read_tensors(path)


def test_a_pickle_is_not_called_unreadable():
    class Source(io.BytesIO):
        read = readline = readinto = interrupted

    with pytest.raises(Stopped), Interruption():
        safe_pickle.load(Source(b""), {})


def test_a_dataset_is_not_called_damaged(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    folder = tmp_path / "flowers" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    for name in ("builder", "builder_from_directory"):
        monkeypatch.setattr(tfds, name, interrupted)
        monkeypatch.setattr(tfds.core, name, interrupted, raising=False)
    with pytest.raises(Stopped), Interruption():
        prepared.open_builder("flowers", str(tmp_path))


def test_the_line_is_seen_though_an_import_is_silenced():
    program = (
        "import os, signal; from sskd_jax.system import early, quiet; early.catch_signals()\n"
        "with quiet.quiet(): os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == early.GO_ON
    assert done.stderr == f"stopped: SIGINT: {early.GOES_ON}\n"
