"""Reading CIFAR: official files, and tiny datasets that tfds's own builder prepares here."""

import contextlib
import fcntl
import pwd
import shutil
import socket
import sys
import time
from pathlib import Path

import numpy as np
import official_files
import pytest
import tensorflow_datasets as tfds

from sskd_jax.__main__ import main
from sskd_jax.data import cifar, official, sources
from sskd_jax.types import UserError

COUNTS = {"train": 24, "test": 10}
VERSION = str(tfds.builder_cls("cifar100").VERSION)


def arrays(split: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split, in the official order."""
    random, count = np.random.default_rng([seed, len(split)]), COUNTS[split]
    return random.integers(0, 256, (count, 32, 32, 3), np.uint8), random.integers(0, 10, count)


def examples(name: str, split: str, seed: int):
    """Keys and examples as tfds's CIFAR builders yield them."""
    for i, (image, label) in enumerate(zip(*arrays(split, seed), strict=True)):
        coarse = {"coarse_label": 19 - label} if name == "cifar100" else {}
        yield i, {"id": f"{split}_{i:05d}", "image": image, "label": label, **coarse}


def write(
    folder: Path, name: str = "cifar100", file_format: str = "array_record", seed: int = 0
) -> Path:
    """Prepares a dataset in `folder`; returns the folder of its version."""
    builder = tfds.builder(name, data_dir=folder)
    builder._split_generators = lambda dl_manager: {
        split: examples(name, split, seed) for split in COUNTS
    }
    builder.download_and_prepare(file_format=file_format)
    return folder / name / VERSION


def expect(data: sources.Dataset, seed: int = 0) -> None:
    for part, split in ((data.train, "train"), (data.test, "test")):
        np.testing.assert_array_equal(part.image, arrays(split, seed)[0])
        np.testing.assert_array_equal(part.label, arrays(split, seed)[1])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with cifar100, to copy from."""
    folder = tmp_path_factory.mktemp("prepared")
    write(folder)
    return folder


@pytest.fixture
def data_dir(prepared, tmp_path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


@pytest.fixture
def decodings(monkeypatch) -> list[str]:
    """The splits that were decoded so far."""
    done, decode = [], cifar._decode
    monkeypatch.setattr(
        cifar, "_decode", lambda builder, split: done.append(split) or decode(builder, split)
    )
    return done


@pytest.fixture
def offline(monkeypatch) -> None:
    def refuse(*args):
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize(
    "name, file_format", [("cifar10", "array_record"), ("cifar100", "tfrecord")]
)
def test_reads_both_datasets_and_both_formats_in_the_official_order(tmp_path, name, file_format):
    write(tmp_path, name, file_format)
    data = sources.load(name, str(tmp_path))
    expect(data)
    assert data.num_classes == int(name[5:])


def test_array_record_is_read_without_tensorflow(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    expect(sources.load("cifar100", str(data_dir)))


def test_default_folder_is_that_of_tfds(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    expect(sources.load("cifar100"))
    expect(sources.load("cifar100", ""))


def test_second_load_takes_the_decoded_copy(data_dir, decodings):
    for _ in range(2):
        expect(sources.load("cifar100", str(data_dir)))
    assert decodings == ["train", "test"]
    assert [path.name for path in (data_dir / "cifar100").iterdir() if path.is_file()] == [
        f".{VERSION}.decoded.npz"
    ]


def test_decoded_copy_is_not_used_for_another_preparation(data_dir):
    expect(sources.load("cifar100", str(data_dir)))
    shutil.rmtree(data_dir / "cifar100" / VERSION)
    write(data_dir, seed=1)
    expect(sources.load("cifar100", str(data_dir)), seed=1)


@pytest.mark.parametrize("keep", [0, 5000])
def test_damaged_copy_is_written_anew(data_dir, decodings, keep):
    sources.load("cifar100", str(data_dir))
    cache = data_dir / "cifar100" / f".{VERSION}.decoded.npz"
    cache.write_bytes(cache.read_bytes()[:keep])
    for _ in range(2):
        expect(sources.load("cifar100", str(data_dir)))
    assert decodings == ["train", "test"] * 2


def test_read_only_folder_is_no_obstacle(data_dir, monkeypatch):
    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(cifar.os, "replace", refuse)
    expect(sources.load("cifar100", str(data_dir)))
    assert [path.name for path in (data_dir / "cifar100").iterdir()] == [VERSION]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    "pattern, spoil, reason",
    [
        ("*-test*", Path.unlink, "it lacks cifar100-test"),
        ("*-train*", Path.unlink, "it lacks cifar100-train"),
        ("features.json", Path.unlink, "it lacks features.json"),
        ("dataset_info.json", Path.unlink, "it lacks dataset_info.json"),
        ("*-test*", cut, ""),
        (
            "dataset_info.json",
            lambda path: path.write_text(path.read_text().replace('"24"', '"25"')),
            "",
        ),
    ],
)
def test_incomplete_dataset_is_named_in_one_line(data_dir, pattern, spoil, reason):
    [path] = (data_dir / "cifar100" / VERSION).glob(pattern)
    spoil(path)
    with pytest.raises(UserError) as error:
        sources.load("cifar100", str(data_dir))
    assert "\n" not in str(error.value) and reason in str(error.value)
    assert f"{VERSION} is not whole (" in str(error.value)
    command = f"python -m sskd_jax prepare cifar100 --source=cifar-100-python --data_dir={data_dir}"
    assert str(error.value).endswith(f"delete it, then type: {command}")


def test_unreadable_description_is_named_in_one_line(data_dir):
    (data_dir / "cifar100" / VERSION / "dataset_info.json").write_text("{")
    with pytest.raises(
        UserError, match=r"^\S*/cifar100 is damaged \(.*\): delete it and prepare it again$"
    ):
        sources.load("cifar100", str(data_dir))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_official_files_are_read_as_they_are(name, packed, tmp_path, monkeypatch):
    folder = getattr(official_files, name)(tmp_path)
    file_format = "tfrecord" if packed else "array_record"
    paths = [f"--source={folder}", f"--data_dir={tmp_path / 'prepared'}"]
    main(["prepare", name, *paths, f"--file_format={file_format}"])
    assert list(tmp_path.glob(f"prepared/{name}/*/*.{file_format}*"))
    expected = sources.load(name, str(tmp_path / "prepared"))
    if packed:
        official_files.archive(folder).rename(tmp_path / official.LAYOUTS[name].archive)
        shutil.rmtree(folder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for part, other in zip(sources.load(name, str(tmp_path))[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(part.image, other.image)
        np.testing.assert_array_equal(part.label, other.label)


def test_a_dataset_whose_owner_has_no_name_here_is_read(data_dir, monkeypatch):
    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert sources.load("cifar100", str(data_dir)).train.size == COUNTS["train"]


def test_without_data_and_network_the_command_is_shown_at_once(tmp_path, offline):
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        sources.load("cifar10", str(tmp_path))
    assert time.monotonic() - start < 3
    assert str(error.value) == (
        f"cifar10 is neither prepared in {tmp_path} nor downloadable (no network): put the "
        "official cifar-10-python.tar.gz there"
    )


def test_a_silent_network_is_given_up_in_time(monkeypatch):
    def hang(*args):
        time.sleep(3)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    assert not cifar._reachable(timeout=0.1)
    assert time.monotonic() - start < 2


def test_a_proxy_counts_as_network(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert cifar._reachable()
    assert not cifar._reachable()


def test_downloads_where_there_is_a_network(tmp_path, monkeypatch):
    generators = {split: examples("cifar100", split, 0) for split in COUNTS}
    monkeypatch.setattr(cifar, "_reachable", lambda: True)
    monkeypatch.setattr(
        tfds.builder_cls("cifar100"), "_split_generators", lambda self, dl_manager: generators
    )
    expect(sources.load("cifar100", str(tmp_path)))
    assert list((tmp_path / "cifar100" / VERSION).glob("*.array_record*"))


def test_a_download_of_another_process_is_waited_for(tmp_path, monkeypatch, capsys):
    """The other one ends during the second pause."""
    other, pauses = contextlib.ExitStack(), []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            other.close()
            write(tmp_path)

    monkeypatch.setattr(cifar, "_reachable", lambda: True)
    monkeypatch.setattr(cifar.time, "sleep", pause)
    (tmp_path / "cifar100").mkdir()
    note = other.enter_context((tmp_path / "cifar100" / ".preparing").open("w"))
    fcntl.flock(note, fcntl.LOCK_EX)
    expect(sources.load("cifar100", str(tmp_path)))
    assert len(pauses) == 2
    assert capsys.readouterr().out.count("cifar100  another process downloads it: waiting\n") == 1


def test_failed_download_is_told_in_one_line(tmp_path, monkeypatch):
    def fail(self, dl_manager):
        raise ConnectionError("reset by peer\nand more")

    monkeypatch.setattr(cifar, "_reachable", lambda: True)
    monkeypatch.setattr(tfds.builder_cls("cifar100"), "_split_generators", fail)
    with pytest.raises(
        UserError, match=r"^cifar100 is neither .* \(reset by peer\): put the .* there$"
    ):
        sources.load("cifar100", str(tmp_path))
