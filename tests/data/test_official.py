"""The reader of the official files against bytes that nobody would write: read, or one line."""

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from official_files import archive, batch, cifar100, dump

from sskd_jax.data import official
from sskd_jax.types import UserError

CALL = b"cos\nmkdir\n(V%s\ntR0"  # what would make a folder, and leave nothing on the stack


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An official folder with three images in each file, most of whose bytes are structure."""
    folder = cifar100(tmp_path_factory.mktemp("official"))
    for name in ("train", "test"):
        dump(folder / name, batch(3, 0))
    return folder


def test_the_folder_itself_or_the_one_around_it_may_be_named(folder):
    found = [official.find("cifar100", epath.Path(path)) for path in (folder, folder.parent)]
    assert found == [folder, folder]
    assert official.find("cifar10", epath.Path(folder)) is None


def read(folder: Path) -> None:
    try:
        splits, names = official.read("cifar100", folder)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    for examples in splits.values():
        assert examples.image.dtype == np.uint8 and examples.image.shape[1:] == (32, 32, 3)
        assert all(len(labels) == len(examples.image) for labels in examples.labels.values())
    assert len(names["label"]) == 100


def damaged(content: bytes, changes: list[tuple[float, int]], cut: float | None) -> bytes:
    data = bytearray(content)
    for place, value in changes:
        data[int(place * len(data))] = value
    return bytes(data[: int(cut * len(data))] if cut is not None else data)


PLACES = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(st.tuples(PLACES, st.integers(0, 255)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["train", "test", "meta"]),
    changes=CHANGES,
    cut=st.none() | PLACES,
    pixels=st.booleans(),
)
def test_a_damaged_file(folder, name, changes, cut, pixels):
    whole = (folder / name).read_bytes()
    keep = (
        b"" if pixels or name == "meta" else whole[400:-400]
    )  # the rest of the file is what describes the pixels
    spoiled = damaged(whole.replace(keep, b""), changes, cut)
    try:
        (folder / name).write_bytes(spoiled[:400] + keep + spoiled[400:])
        read(folder)
    finally:
        (folder / name).write_bytes(whole)


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, cut=st.none() | PLACES)
def test_a_damaged_archive(folder, tmp_path_factory, changes, cut):
    whole = archive(folder)
    spoiled = tmp_path_factory.mktemp("archive") / "cifar.tar.gz"
    spoiled.write_bytes(damaged(whole.read_bytes(), changes, cut))
    read(spoiled)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["train", "test", "meta"]))
def test_a_call_anywhere_in_a_file_is_not_made(folder, tmp_path_factory, seed, name):
    trace = tmp_path_factory.mktemp("trace") / "made"
    whole = (folder / name).read_bytes()
    place = random.Random(seed).randrange(2, len(whole))
    try:
        (folder / name).write_bytes(whole[:place] + CALL % os.fsencode(trace) + whole[place:])
        read(folder)
    finally:
        (folder / name).write_bytes(whole)
    assert not trace.exists()


def test_the_call_is_a_real_one(tmp_path):
    pickle.loads(b"\x80\x02" + CALL % os.fsencode(tmp_path / "made") + b"N.")
    assert (tmp_path / "made").is_dir()


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes(folder, content):
    whole = (folder / "train").read_bytes()
    try:
        (folder / "train").write_bytes(content)
        with pytest.raises(UserError):
            official.read("cifar100", folder)
    finally:
        (folder / "train").write_bytes(whole)
