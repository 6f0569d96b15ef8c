"""What TensorBoard reads: a run per stage, a tag per figure, every step once."""

import jax
import pytest
from etils import epath

from sskd_jax.workdir import tensorboard
from sskd_jax.workdir.logbook import Logbook
from sskd_jax.workdir.tensorboard import Charts


def read(folder: epath.Path) -> list[tuple[int, str, float]]:
    """(step, tag, value) of all figures in the folder of a run, read by TensorBoard's own code."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    from tensorboard.util import tensor_util

    (file,) = folder.iterdir()
    return [
        (event.step, value.tag, float(tensor_util.make_ndarray(value.tensor)))
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def row(stage: str, step: int, loss: float) -> dict[str, object]:
    return {"stage": stage, "epoch": step // 3, "step": step, "train/loss": loss, "test/top1": 0.5}


def test_stages_of_several_methods_have_the_same_tags(tmp_path):
    with Logbook(epath.Path(tmp_path), {}, jax.devices()) as book:
        for stage in ("teacher", "kd/student", "sskd/student"):
            book.rewind(stage, 0)
            book.write(row(stage, 3, 2.0))
            book.write(row(stage, 6, 1.0))
    for stage in ("teacher", "kd/student", "sskd/student"):
        assert read(tmp_path / "tensorboard" / stage) == [
            (3, "train/loss", 2.0),
            (3, "test/top1", 0.5),
            (6, "train/loss", 1.0),
            (6, "test/top1", 0.5),
        ]


def test_what_is_trained_again_is_there_once(tmp_path):
    losses = []
    for start, steps in ((0, (3, 6, 9)), (6, (9, 12))):  # the checkpoint of step 9 was lost
        with Logbook(epath.Path(tmp_path), {}, jax.devices()) as book:
            book.rewind("teacher", start)
            for step in steps:
                book.write(row("teacher", step, start + 1.0))
                losses = read(tmp_path / "tensorboard/teacher")  # while the file is open
    assert [(step, value) for step, tag, value in losses if tag == "train/loss"] == [
        (3, 1.0),
        (6, 1.0),
        (9, 7.0),
        (12, 7.0),
    ]


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> epath.Path:
    """A folder on the disk that is taken for one in a bucket."""
    monkeypatch.setattr(tensorboard, "is_remote", lambda path: True)
    return epath.Path(tmp_path)


def test_clu_writes_the_same_to_buckets(bucket):
    pytest.importorskip("clu")
    charts = Charts(bucket)
    charts.write([row("teacher", 3, 2.0)])
    charts.close()
    assert read(bucket / "teacher") == [(3, "train/loss", 2.0), (3, "test/top1", 0.5)]
