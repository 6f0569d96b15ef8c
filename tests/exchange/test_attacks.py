"""PyTorch checkpoints that are made to hang the reader, to crash it or to fill the memory."""

import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from torch_files import (
    ORDERED_DICT,
    Call,
    Global,
    Raw,
    Reference,
    checkpoint,
    encoded,
    pickled,
    storage,
    tensor,
    window,
    zip_file,
)

from sskd_jax.exchange import torch_file

ONE = {"0": np.ones(1, np.float32)}
TENSOR, OLD_TENSOR = tensor("0", ONE["0"]), tensor("0", ONE["0"], None)
READ = """
import sys
from sskd_jax.exchange import torch_file
from sskd_jax.types import UserError
for path in sys.argv[1:]:
    try:
        print("read", *torch_file.read_tensors(path))
    except UserError as error:
        print(error)
"""


def outcomes(folder: Path, contents: Mapping[str, bytes]) -> dict[str, str]:
    """The line that reading prints of each file.

    They are read in a process of its own, as they hang or crash readers.
    """
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    lines = printed([str(folder / name) for name in contents])
    return dict(zip(contents, lines, strict=True))


def printed(paths: Sequence[str]) -> list[str]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", READ, *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr[-300:]
    return done.stdout.splitlines()


def twins(levels: int) -> Raw:
    """A tuple that holds one tuple twice, which holds one tuple twice, and so on."""
    return Raw(b"K\x01" + b"2\x86" * levels)  # 1, then each time: DUP, TUPLE2


def chain(levels: int) -> Raw:
    """A tuple that holds a tuple, which holds a tuple, and so on."""
    return Raw(b"K\x01" + b"\x85" * levels)  # 1, then each time: TUPLE1


def state(**entries: object) -> dict:
    return {"weight": TENSOR, **entries}


def reference(kind: object) -> Reference:
    return Reference(("storage", kind, "0", "cpu", 1))


def as_pairs(key: Raw) -> Call:
    """OrderedDict([[key, 1]]), as Python 2 pickled it."""
    pairs = Raw(b"](" + encoded(key) + b"K\x01\x86e")
    return Call(Global("collections", "OrderedDict"), (pairs,))


def as_set(key: Raw, code: bytes) -> Raw:
    return Raw(code % encoded(key))


def keyed(key: Raw) -> bytes:
    """A file of PyTorch before 1.6 whose list of storages holds the key."""
    keys = Raw(b"](" + encoded(key) + b"e")
    parts = [torch_file.LEGACY_MAGIC, 1001, {}, {"weight": OLD_TENSOR}, keys]
    return b"".join(map(pickled, parts))


PLACES = {
    "key of a dictionary": lambda key: zip_file(state(x=Raw(b"}" + encoded(key) + b"K\x01s")), ONE),
    "keys of a dictionary": lambda key: zip_file({"weight": TENSOR, "x": {key: 1}}, ONE),
    "dictionary of one opcode": lambda key: zip_file(
        state(x=Raw(b"(" + encoded(key) + b"K\x01d")), ONE
    ),
    "ordered dictionary": lambda key: zip_file(state(x=as_pairs(key)), ONE),
    "set": lambda key: zip_file(state(x=as_set(key, b"\x8f(%s\x90")), ONE),
    "frozen set": lambda key: zip_file(state(x=as_set(key, b"(%s\x91")), ONE),
    "kind of a storage": lambda key: zip_file({"w": window(reference(key), 0, (1,), (1,))}, ONE),
    "key of a storage": keyed,
}


@pytest.mark.parametrize("key", [twins(60), chain(300_000)], ids=["twins", "chain"])
def test_nested_tuples_are_no_keys(key, tmp_path):
    said = outcomes(tmp_path, {place: write(key) for place, write in PLACES.items()})
    assert "unknown kind of storage" in said.pop("kind of a storage")
    for line in said.values():
        assert "a key in it is of type tuple, not text or a small number" in line
        assert len(line) < 300


def test_a_nested_tuple_as_a_value_hurts_nobody(tmp_path):
    content = zip_file(state(x=chain(300_000), y=twins(60)), ONE)
    assert outcomes(tmp_path, {"x.pth": content}) == {"x.pth": "read weight"}


def shared(value: bytes, use: bytes, times: int) -> Raw:
    """Opcodes that make a value once, and a list of what `use` makes of it each time."""
    take = b"h\x01" + use  # from the memo
    return Raw(b"](" + value + b"q\x010" + take * times + b"e")


MANY = b"(" + b"K\x01" * 200_000
CALLS = {
    "arguments": shared(MANY + b"t", b"cargparse\nNamespace\nh\x01R0", 3000),
    "pairs": shared(
        b"](" + b"K\x01K\x02\x86" * 200_000 + b"e",
        b"\x85q\x020ccollections\nOrderedDict\nh\x02R",
        3000,
    ),
    "new objects": shared(MANY + b"t", b"cargparse\nNamespace\nh\x01\x81", 3000),
    "old objects": shared(MANY + b"t", b"(cargparse\nNamespace\nh\x01o", 3000),
}


def test_one_large_list_for_many_calls_is_too_much(tmp_path):
    contents = {name: zip_file(state(x=calls), ONE) for name, calls in CALLS.items()}
    for line in outcomes(tmp_path, contents).values():
        assert "its calls are given more than any checkpoint needs" in line


HUGE = Raw(b"\x8b" + struct.pack("<i", 1_000_000) + b"\x01" * 1_000_000)  # LONG4


@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (0, (2,) * 65, (0,) * 65),
        (0, "11", "11"),
        (HUGE, (1,), (1,)),
        (0, (HUGE,), (1,)),
        (0, (1,), (HUGE,)),
        (0, (1.0,), (1,)),
    ],
    ids=["axes", "text", "offset", "shape", "strides", "float"],
)
def test_shapes_that_no_array_can_have(offset, shape, strides, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(zip_file({"w": window(storage("0", ONE["0"]), offset, shape, strides)}, ONE))
    with pytest.raises(torch_file.UserError, match="that no array can have"):
        torch_file.read_tensors(path)


def test_a_huge_number_is_no_key(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(zip_file(state(x=Raw(b"}" + HUGE.code + b"K\x01s")), ONE))
    with pytest.raises(torch_file.UserError, match="a key in it is a huge number"):
        torch_file.read_tensors(path)


def test_entries_that_share_their_bytes(tmp_path):
    """A file as large as one storage could otherwise ask for the memory of a thousand."""
    arrays = {str(i): np.ones(1000, np.float32) for i in range(9)}
    path = tmp_path / "x.pth"
    path.write_bytes(zip_file({key: tensor(key, x) for key, x in arrays.items()}, arrays))
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("x/data/0").header_offset
    content = bytearray(path.read_bytes())
    whole = bytes(content)
    at = whole.find(b"PK\x01\x02")
    while at >= 0:  # every entry of the directory, and what it says about where its bytes lie
        if b"x/data/" in whole[at + 46 : at + 60]:
            content[at + 42 : at + 46] = struct.pack("<I", first)
        at = whole.find(b"PK\x01\x02", at + 1)
    end = whole.find(b"PK\x03\x04", first + 1)
    directory = whole.find(b"PK\x01\x02")
    shorter = content[:end] + content[directory:]
    tail = shorter.rfind(b"PK\x05\x06")
    shorter[tail + 16 : tail + 20] = struct.pack("<I", end)
    path.write_bytes(shorter)
    with pytest.raises(torch_file.UserError, match="overlap"):
        torch_file.read_tensors(path)


def test_a_pipe_and_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "device.pth").symlink_to("/dev/zero")
    for line in printed([str(path) for path in tmp_path.iterdir()]):
        assert line.endswith(".pth: this is no file, but a pipe or a device: give a file")


def test_ordinary_checkpoints_keep_what_else_they_hold(tmp_path):
    """Optimizer states by whole numbers, counters, sizes, and dictionaries of several kinds."""
    rest = {
        "optimizer": {"state": {140_000_000_000_000: {"step": 1}, 0: {}}, "param_groups": []},
        "milestones": Call(Global("collections", "Counter"), ({60: 1, 80: 1},)),
        "size": Call(Global("torch", "Size"), ((2, 3),)),
        "pairs": Call(Global("collections", "OrderedDict"), ([["a", 1], ["b", 2]],)),
        "empty": ORDERED_DICT,
    }
    weights = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    for form in ("zip", "legacy"):
        path = tmp_path / f"{form}.pth"
        path.write_bytes(checkpoint(form, weights, lambda found: {"model": found, **rest}))
        found = torch_file.read_tensors(path)
        np.testing.assert_array_equal(found["weight"], weights["weight"])
