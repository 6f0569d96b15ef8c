"""Random access to both of tfds's formats."""

import resource
import struct

import fsspec
import numpy as np
import pytest

from sskd_jax.data import records
from sskd_jax.data.cached import cached
from sskd_jax.data.records import TFRecords, open_files
from sskd_jax.types import UserError

CONTENT = [b"a", b"", b"ccc" * 1000, b"dd"]


def tfrecord(content: list[bytes]) -> bytes:
    """The format by its definition; nobody reads the checksums here."""
    return b"".join(struct.pack("<QI", len(record), 0) + record + bytes(4) for record in content)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def bucket(name: str) -> list[str]:
    """Two files of what stands for a bucket: fsspec's file system in memory."""
    fs = fsspec.filesystem("memory")
    paths = [f"/{name}/part-{i}" for i in range(2)]
    for path, part in zip(paths, (CONTENT[:3], CONTENT[3:]), strict=True):
        fs.pipe(path, tfrecord(part))
    return [f"memory:/{path}" for path in paths]


def test_any_records_of_several_files_in_any_order():
    found, _ = open_files(bucket("order"), "tfrecord", "indexing")
    assert len(found) == 4
    assert found.__getitems__(np.array([3, 0, 2, 1, 3])) == [CONTENT[i] for i in (3, 0, 2, 1, 3)]


def test_the_index_is_made_once_and_anew_when_a_file_changes(cache, monkeypatch):
    paths = bucket("index")
    first, key = open_files(paths, "tfrecord", "indexing")
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(TFRecords, "spans", None)
        assert open_files(paths, "tfrecord", "indexing")[0].__getitems__(np.array([2])) == [
            CONTENT[2]
        ]
    fsspec.filesystem("memory").pipe("/index/part-1", tfrecord([b"new", b"more"]))
    changed, new_key = open_files(paths, "tfrecord", "indexing")
    assert new_key != key and len(changed) == 5 and changed.__getitems__(np.array([4])) == [b"more"]


def test_the_folder_is_listed_before_its_files_are_asked_for(monkeypatch):
    fs, calls = fsspec.filesystem("memory"), []
    for name in ("ls", "ukey"):
        real = getattr(fs, name)
        monkeypatch.setattr(
            fs, name, lambda path, name=name, real=real: calls.append((name, path)) or real(path)
        )
    open_files(bucket("listed"), "tfrecord", "indexing")
    assert calls == [
        ("ls", "/listed"),
        ("ukey", "/listed/part-0"),
        ("ukey", "/listed/part-1"),
    ]


@pytest.mark.parametrize("cut", [1, 20, 3010])
def test_a_file_that_was_cut_short_has_fewer_records(cut):
    whole = tfrecord(CONTENT)
    fsspec.filesystem("memory").pipe("/short/part", whole[:-cut])
    assert len(open_files(["memory://short/part"], "tfrecord", "indexing")[0]) < 4


def test_a_damaged_or_unwritable_copy_is_made_anew(tmp_path):
    file = tmp_path / "copy.npz"
    file.write_bytes(b"no zip")
    assert cached(file, "key", lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert cached(file, "key", lambda: 1 / 0)["a"].tolist() == [0, 1, 2]
    assert cached(file, "other", lambda: {"a": np.arange(5)})["a"].tolist() == [0, 1, 2, 3, 4]
    file.write_bytes(file.read_bytes()[:-30])
    assert cached(file, "other", lambda: {"a": np.arange(4)})["a"].tolist() == [0, 1, 2, 3]
    (tmp_path / "file").write_text("")
    assert cached(tmp_path / "file" / "copy.npz", "key", lambda: {"a": np.arange(2)})[
        "a"
    ].tolist() == [0, 1]


def test_array_record_in_a_bucket_says_what_to_do():
    with pytest.raises(UserError, match="prepare the dataset with --file_format=tfrecord"):
        open_files(bucket("array"), "array_record", "indexing")


def test_files_that_stay_open_may_be_more_than_a_shell_allows():
    allowed = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
        records.allow_open(hard - records.OTHER_FILES, "part-0")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
        with pytest.raises(UserError, match=f"part-0 is one of {hard} files that stay open, and"):
            records.allow_open(hard, "part-0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
