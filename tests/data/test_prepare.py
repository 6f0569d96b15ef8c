"""Preparing tfds datasets from official files: the real one, and tiny ones of Python 2."""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from official_files import FOLDERS, Evil, archive, batch, cifar10, cifar100, dump

from sskd_jax.__main__ import main
from sskd_jax.data import official, prepared, sources
from sskd_jax.system.quiet import import_tensorflow
from sskd_jax.types import UserError


def pixels(*batches: dict[str, object]) -> np.ndarray:
    """uint8[N, 32, 32, 3] of the batches in a row, pixel by pixel."""
    rows = np.concatenate([content["data"] for content in batches])
    return np.stack(
        [rows[:, 1024 * c : 1024 * (c + 1)].reshape(-1, 32, 32) for c in range(3)], axis=-1
    )


def run(source: Path, data_dir: Path, name: str = "cifar100") -> int:
    return main(["prepare", name, f"--source={source}", f"--data_dir={data_dir}"])


def refused(source: Path, data_dir: Path, capsys, name: str = "cifar100") -> str:
    """The one line on stderr of a run that must fail and leave nothing."""
    assert run(source, data_dir, name) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert not list(data_dir.glob("*/*"))
    return err


def test_cifar100_is_what_tfds_would_have_prepared(tmp_path, capsys):
    assert run(cifar100(tmp_path), tmp_path / "data") == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "wrote cifar100, 30 train and 12 test images" in line
    assert f"--config=configs/cifar.py --config.data.data_dir={tmp_path / 'data'}" in line

    builder = tfds.builder("cifar100", data_dir=tmp_path / "data")
    for split, content in (("train", batch(30, 0)), ("test", batch(12, 1))):
        rows = sorted(builder.as_data_source(split), key=lambda row: row["id"])
        assert [row["id"].decode() for row in rows] == [
            f"{split}_{i:05d}" for i in range(len(content["data"]))
        ]
        np.testing.assert_array_equal([row["image"] for row in rows], pixels(content))
        assert [row["label"] for row in rows] == content["fine_labels"]
        assert [row["coarse_label"] for row in rows] == content["coarse_labels"]
    features = builder.info.features
    assert (
        features["label"].int2str(7) == "fine 7" and features["coarse_label"].int2str(19) == "c 19"
    )
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar100"]


def test_cifar10_from_its_archive(tmp_path, capsys):
    source = archive(cifar10(tmp_path))
    assert run(source, tmp_path / "data", "cifar10") == 0
    assert "--config=configs/cifar.py:dataset=cifar10 " in capsys.readouterr().out
    data = sources.load("cifar10", str(tmp_path / "data"))
    batches = [batch(6, i, "cifar10") for i in range(1, 6)]
    np.testing.assert_array_equal(data.train.image, pixels(*batches))
    np.testing.assert_array_equal(
        data.train.label, sum((content["labels"] for content in batches), [])
    )
    np.testing.assert_array_equal(data.test.image, pixels(batch(12, 6, "cifar10")))
    assert data.num_classes == 10


def test_second_run_changes_nothing(tmp_path, capsys):
    source, data_dir = cifar100(tmp_path), tmp_path / "data"
    assert run(source, data_dir) == 0
    before = [(path, path.stat().st_mtime_ns) for path in sorted(data_dir.rglob("*"))]
    assert run(tmp_path / "nothing", data_dir) == 0
    assert "cifar100 is there already" in capsys.readouterr().out
    assert before == [(path, path.stat().st_mtime_ns) for path in sorted(data_dir.rglob("*"))]


def test_parent_and_archive_hold_the_same_as_the_folder(tmp_path):
    folder = cifar100(tmp_path)
    want, want_names = official.read("cifar100", folder)
    for source in (tmp_path, archive(folder)):
        splits, names = official.read("cifar100", source)
        assert names == want_names and names["label"][3] == "fine 3"
        for split in ("train", "test"):
            np.testing.assert_array_equal(splits[split].image, want[split].image)
            assert splits[split].labels == want[split].labels


def test_column_major_arrays(tmp_path):
    folder = cifar100(tmp_path, data=np.asfortranarray(batch(30, 0)["data"]))
    np.testing.assert_array_equal(
        official.read("cifar100", folder)[0]["train"].image, pixels(batch(30, 0))
    )


@pytest.mark.parametrize("packed", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, capsys, packed):
    folder = cifar100(tmp_path, filenames=Evil(tmp_path / "trace"))
    line = refused(archive(folder) if packed else folder, tmp_path / "data", capsys)
    assert "mkdir" in line and folder.name in line
    assert not (tmp_path / "trace").exists()


def test_truncated_file(tmp_path, capsys):
    folder = cifar100(tmp_path)
    (folder / "test").write_bytes((folder / "test").read_bytes()[:-5000])
    assert f"{folder / 'test'} is not a readable pickle" in refused(
        folder, tmp_path / "data", capsys
    )


def test_truncated_archive(tmp_path, capsys):
    source = archive(cifar100(tmp_path))
    source.write_bytes(source.read_bytes()[:-3000])
    assert FOLDERS["cifar100"] in refused(source, tmp_path / "data", capsys)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("nowhere", "does not exist: give the official folder cifar-100-python or its .tar.gz"),
        ("data.bin", "cannot be read"),
        ("empty", "lacks the official file train: give the folder cifar-100-python or its .tar.gz"),
    ],
)
def test_wrong_source(tmp_path, capsys, name, reason):
    (tmp_path / "data.bin").write_bytes(b"not an archive" * 100)
    (tmp_path / "empty").mkdir()
    line = refused(tmp_path / name, tmp_path / "data", capsys)
    assert str(tmp_path / name) in line and reason in line


def test_files_of_the_other_dataset(tmp_path, capsys):
    assert "lacks the official file train" in refused(cifar10(tmp_path), tmp_path / "data", capsys)


@pytest.mark.parametrize(
    "train, reason",
    [
        (dict(data=np.zeros((30, 3000), np.uint8)), r"its data is no array uint8[N, 3072]"),
        (dict(data=np.zeros((30, 3072), np.int8)), r"its data is no array uint8[N, 3072]"),
        (dict(data=np.zeros((0, 3072), np.uint8)), r"its data is no array uint8[N, 3072]"),
        (dict(data=[1, 2, 3]), r"its data is no array uint8[N, 3072]"),
        (dict(fine_labels=[100] * 30), "fine_labels has labels outside 0..99"),
        (dict(coarse_labels=[-1] * 30), "coarse_labels has labels outside 0..19"),
        (dict(fine_labels=["0"] * 30), "fine_labels has labels outside 0..99"),
        (dict(fine_labels=[0] * 29), "fine_labels is not a list of 30 labels"),
        (dict(coarse_labels=None), "coarse_labels is not a list of 30 labels"),
    ],
)
def test_damaged_content(tmp_path, capsys, train, reason):
    assert reason in refused(cifar100(tmp_path, **train), tmp_path / "data", capsys)


def test_class_names_must_be_whole(tmp_path, capsys):
    folder = cifar100(tmp_path)
    dump(folder / "meta", {"fine_label_names": ["one"], "coarse_label_names": ["one"]})
    assert "meta does not name 100 classes for label" in refused(folder, tmp_path / "data", capsys)


def test_unwritable_data_dir(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert f"cannot write {tmp_path / 'file'}" in refused(
        cifar100(tmp_path), tmp_path / "file", capsys
    )


@pytest.mark.slow
def test_the_real_cifar100(official_cifar100, tmp_path):
    assert run(official_cifar100, tmp_path / "data") == 0
    data = sources.load("cifar100", str(tmp_path / "data"))
    assert (np.bincount(data.train.label) == 500).all() and (
        np.bincount(data.test.label) == 100
    ).all()
    for part, file in ((data.train, "train"), (data.test, "test")):
        stored = pickle.loads(
            (official_cifar100 / FOLDERS["cifar100"] / file).read_bytes(), encoding="bytes"
        )
        np.testing.assert_array_equal(part.image, pixels({"data": stored[b"data"]}))
        np.testing.assert_array_equal(part.label, stored[b"fine_labels"])


def test_what_is_not_installed_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="needs tensorflow, .*: pip install tensorflow$"):
        import_tensorflow()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets$"):
        prepared.open_builder("flowers", str(tmp_path))


@pytest.mark.parametrize(
    ("folder", "form"), [("/data/cifar100/3.0.2", "array_record"), ("gs://b/c/3.0.2", "tfrecord")]
)
def test_a_bucket_has_tfrecord_files(folder, form):
    assert prepared.usual_format(SimpleNamespace(data_dir=folder)) == form
