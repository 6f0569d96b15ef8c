"""Runs on streamed JPEG images: restarts, devices, processes, and methods with a memory."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from pictures import FRAMING, dataset, imagenet_samples
from processes import ends, start_two, states
from tiny import STREAMS, tiny_network

from configs import imagenet, methods
from sskd_jax import plan, train
from sskd_jax.__main__ import main
from sskd_jax.data import records, sources
from sskd_jax.settings import check
from sskd_jax.system import interruption
from sskd_jax.types import Stopped

STAGES = ("teacher", "head", "student")
WHOLE = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), size=16, resize=16)


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    with tiny_network() as patch:
        patch.setattr(records, "CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("flowers"))


def small_config(data_dir: Path, method: str = "sskd", **changes):
    """Two epochs of three steps in each stage."""
    config = imagenet.get_config(
        f"dataset=flowers,batch=8,teacher=tiny,student=tiny,method={method}"
    )
    for section in set(config) & set(STAGES):
        config[section].update(epochs=2, milestones=(0.5,), learning_rate=0.05)
    config.data.update(FRAMING, data_dir=str(data_dir))
    config.update_from_flattened_dict(changes)
    return config


def run(config, workdir: Path):
    return train.run(config, str(workdir), jax.devices()[:1])


@pytest.fixture(scope="module")
def finished(flowers, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, run(small_config(flowers), workdir)


def test_a_whole_run(finished):
    workdir, table = finished
    assert [row["stage"] for row in table] == ["teacher", "student"]
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 6


@pytest.mark.slow
def test_stops_between_steps_change_no_bit(finished, flowers, tmp_path, monkeypatch):
    """A run that is stopped before every fifth dispatch ends with the same numbers."""
    monkeypatch.setattr("sskd_jax.engine.loop.DISPATCH_SECONDS", 0.0)
    calls = iter(range(10_000))
    monkeypatch.setattr(interruption.Interruption, "due", lambda self: next(calls) % 5 == 4)
    stops = 0
    while True:
        try:
            run(small_config(flowers), tmp_path)
            break
        except Stopped:
            stops += 1
    assert stops >= 3
    for ours, theirs in zip(states(tmp_path, *STAGES), states(finished[0], *STAGES), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert (tmp_path / "metrics.jsonl").read_text() == (finished[0] / "metrics.jsonl").read_text()


def test_streamed_images_train_as_resident_ones_do(flowers, tmp_path, monkeypatch, optimised):
    """Cut to the whole of a square, an image is the same whatever is drawn: both are one run."""
    config = small_config(
        flowers, "scratch", **{f"data.{key}": value for key, value in WHOLE.items()}
    )
    run(config, tmp_path / "streamed")
    data = sources.load("flowers", str(flowers), test_split="validation", **WHOLE)
    splits = [sources.Split(*whole(split)) for split in (data.train, data.test)]
    monkeypatch.setattr(sources, "load", lambda *_, **__: sources.Dataset(*splits, 3))
    run(config, tmp_path / "resident")
    ours, theirs = (states(tmp_path / name, "student") for name in ("streamed", "resident"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def whole(split) -> tuple[np.ndarray, np.ndarray]:
    """All images as training cuts them, and their labels."""
    index = np.arange(split.size, dtype=np.int32).reshape(1, 1, -1)
    rows = next(split.batches(index, 0, index))
    return rows.image[0, 0], rows.label[0, 0]


@pytest.mark.slow
def test_a_method_with_a_memory_gets_the_labels(flowers, tmp_path):
    table = run(
        small_config(
            flowers, "crd+kd", **{"method.negative_count": 8, "student.images.share": 0.5}
        ),
        tmp_path,
    )
    assert table[-1]["method"] == "crd"
    assert states(tmp_path, "student")[0]["memory"]["student"].shape[0] == 12


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name not in STREAMS])
def test_every_method_suits_the_pair_or_says_so(name):
    """fsp and kdsvd too: both networks have maps of one width."""
    config = imagenet.get_config(f"method={name}")
    images = sources.Split(np.zeros((256, 224, 224, 3), np.uint8), np.zeros(256, np.int32))
    data = sources.Dataset(images, images, 1000)
    run = plan.Run(config, data, images, images, np.float32, devices=1)
    jobs = plan.plan(run, check(config))
    assert [job.kind for job in jobs] == list(check(config)[0].method)


def test_larger_batches_get_a_larger_rate_and_time_to_reach_it():
    small, large = (imagenet.get_config(arg).student for arg in (None, "batch=1024"))
    assert (small.learning_rate, small.warmup_epochs, small.batch_size) == (0.1, 0.0, 256)
    assert (large.learning_rate, large.warmup_epochs, large.batch_size) == (0.4, 5.0, 1024)


@pytest.fixture(scope="module")
def samples(shared, tmp_path_factory):
    """The real images as imagenet2012, a fifth of them to test on."""
    root = tmp_path_factory.mktemp("samples")
    imagenet_samples(shared, root / "source")
    typed = ["prepare", "imagefolder", f"--source={root / 'source'}", "--name=imagenet2012"]
    assert main([*typed, f"--data_dir={root}"]) == 0
    return root


@pytest.mark.slow
def test_two_processes_on_real_images_are_one(samples, tmp_path):
    """Two with two devices each, and this one with one."""
    arg = "method=scratch,student=toys:Small,batch=32"
    changes = {
        "data.data_dir": str(samples),
        "data.size": 24,
        "data.resize": 28,
        "student.epochs": 1,
        "student.milestones": (),
    }
    two = start_two(
        tmp_path / "two",
        f"--config=configs/imagenet.py:{arg}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
    )
    config = imagenet.get_config(arg)
    config.update_from_flattened_dict(changes)
    run(config, tmp_path / "one")
    assert ends(*two) == [(0, ""), (0, "")]
    ours, theirs = (states(tmp_path / name, "student")[0]["params"] for name in ("two", "one"))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), ours, theirs)
