"""Reads and writes the files of `torch.save`, without PyTorch and without running code in them.

Since PyTorch 1.6 such a file is a zip archive of a pickle and of the raw numbers of every storage.
Before, it was a sequence of pickles followed by the storages. In both, the pickle describes a
tensor as a strided window of a storage, which is a flat array. Before 0.2 it was a tar archive,
which is not read.
"""

import functools
import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from etils import epath

from sskd_jax.system import safe_pickle
from sskd_jax.types import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"  # opcodes that make an empty one
MAX_AXES = 64  # the most that a NumPy array can have
# Keys of the weights, if they are not at the top level.
LAYOUTS = ("state_dict", "model", "net", "model_state_dict")
DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class Storage(NamedTuple):
    """A flat array in a file.

    Attributes:
      key: its name in the file.
      kind: the type of its numbers, a key of `DTYPES`.
      numel: how many numbers it has.
    """

    key: str
    kind: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.kind].itemsize


class Tensor(NamedTuple):
    """A strided window of a storage as a file describes it; `_array` checks it.

    Attributes:
      storage: the storage that has the numbers.
      offset: of the first number in the storage.
      shape: of the tensor.
      strides: from one number to the next along each axis, counted in numbers.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Inert:
    """Replaces objects other than weights in a checkpoint: takes any arguments, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class PlainDict(safe_pickle.Dict):
    """A dictionary that drops attributes, such as the `_metadata` of PyTorch's state_dicts."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _axes(values: Any) -> tuple[int, ...]:
    """The numbers of a shape, or of strides, as a file gives them.

    Raises:
      ValueError: they are too many, too large, or of a type that no array's shape can have.
    """
    if not isinstance(values, (tuple, list)) or len(values) > MAX_AXES:
        raise ValueError("a shape that no array can have")
    return tuple(_whole(value) for value in values)


def _whole(value: Any) -> int:
    """The value, if it is a whole number that fits in 64 bits; otherwise a ValueError."""
    if type(value) is not int or value.bit_length() > 63:
        raise ValueError("a number that no array can have")
    return value


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    """Replaces PyTorch's function, whose further arguments do not concern the numbers."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return Tensor(storage, _whole(offset), _axes(shape), _axes(strides))


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
INERT = {
    "argparse": ("Namespace",),
    "collections": ("Counter",),
    "_codecs": ("encode",),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "pathlib": ("PosixPath", "WindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath"),
    "torch": ("device", "bool", *FLOATS, *INTEGERS),
}
ALLOWED = {
    ("collections", "OrderedDict"): PlainDict,
    ("torch", "Size"): _axes,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", kind): kind for kind in DTYPES},
    **{(module, name): Inert for module, names in INERT.items() for name in names},
}
Fetch = Callable[[Storage], bytes]  # the raw little-endian numbers of a storage


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint, as read-only arrays.

    Raises:
      UserError: the file is missing, damaged, would run code, or holds no named tensors.
    """
    try:
        if safe_pickle.is_endless(path):
            raise UserError("this is no file, but a pipe or a device: give a file")
        content = epath.Path(path).read_bytes()
        if not content:
            raise UserError("the file is empty")
        top, fetch = _read_zip(content) if content.startswith(b"PK") else _read_legacy(content)
        tensors = _named_tensors(top)
        return {name: _array(tensor, fetch(tensor.storage)) for name, tensor in tensors.items()}
    except safe_pickle.Forbidden as error:
        advice = "if it is a whole model, store its state_dict() in place of it"
        raise UserError(f"{path}: {error}; {advice}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can fail in any of these operations
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} is not a whole PyTorch checkpoint: {reason}") from error


def _read_zip(content: bytes) -> tuple[Any, Fetch]:
    """(pickled object, a function that fetches a storage) of a file of PyTorch 1.6 or later."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    # Overlapping entries could each be nearly as large as the file, and fill the memory.
    if sum(entry.compress_size for entry in archive.infolist()) > len(content):
        raise UserError("the entries of this zip archive overlap, which PyTorch's never do")
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if not pickles:
        raise UserError("this zip archive is no PyTorch checkpoint: it has no data.pkl")
    root = pickles[0].removesuffix("data.pkl")  # "archive/", or the name of the file
    swapped = f"{root}byteorder" in names and _entry(archive, f"{root}byteorder") == b"big"

    @functools.cache
    def fetch(storage: Storage) -> bytes:
        raw = _entry(archive, f"{root}data/{storage.key}")
        if not swapped:
            return raw
        return np.frombuffer(raw, f"u{DTYPES[storage.kind].itemsize}").byteswap().tobytes()

    return _unpickled(io.BytesIO(_entry(archive, f"{root}data.pkl")), {}), fetch


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an entry; a compressed entry is refused, because it could fill the memory."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise UserError(f"its entry {name[:100]!r} is compressed, which PyTorch never does")
    return archive.read(name)


def _read_legacy(content: bytes) -> tuple[Any, Fetch]:
    """(pickled object, a function that fetches a storage) of a file of PyTorch before 1.6.

    Its parts are the magic number, the protocol, sizes, the object and the keys of the storages,
    all of them pickled, and then the storages.
    """
    if content[257:262] == b"ustar":  # the mark of a tar archive
        raise UserError(
            "it was saved by a PyTorch before 0.2, as torchvision's first files were: save "
            "torch.load(PATH) again with torch.save, or take a newer one, such as torchvision's "
            "resnet34-b627a593.pth"
        )
    file = io.BytesIO(content)
    if safe_pickle.load(file, {}) != LEGACY_MAGIC:
        raise UserError("it is a pickle, but not one of PyTorch's")
    for _ in ("protocol", "sizes"):
        safe_pickle.load(file, {})
    storages: dict[str, Storage] = {}
    top = _unpickled(file, storages)
    keys = [safe_pickle.checked(key) for key in safe_pickle.load(file, {})]
    raw = {key: _next_storage(file, storages[key]) for key in keys}
    return top, lambda storage: raw[storage.key]


def _next_storage(file: io.BytesIO, storage: Storage) -> bytes:
    """The numbers of the storage at the position of `file`; an int64 with their count comes first.

    Both are little-endian on every machine.
    """
    if struct.unpack("<q", file.read(8)) != (storage.numel,):
        raise UserError(
            "the length of a storage is not what its pickle says: the file is damaged or cut short"
        )
    return file.read(storage.nbytes)


def _unpickled(file: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """The next pickled object of `file`, in which every tensor is a `Tensor`.

    The storages of these tensors are added to `storages`, by key.
    """

    def persistent_load(reference: tuple) -> Storage:
        what, kind, key, _, numel, *view = reference
        known = what == "storage" and type(kind) is str and kind in DTYPES
        if not known or type(key) is not str or _whole(numel) < 0:
            raise ValueError("unknown kind of storage")
        if view not in ([], [None]):
            raise ValueError("storages that are views of others are not supported")
        storage = Storage(key, kind, numel)
        if storages.setdefault(key, storage) != storage:
            raise ValueError("storages of several types in one place are not supported")
        return storage

    return safe_pickle.load(file, ALLOWED, encoding="utf-8", persistent_load=persistent_load)


def _named_tensors(top: Any) -> dict[str, Tensor]:
    """The tensors by name in a checkpoint of any of the usual layouts.

    Raises:
      UserError: there are none.
    """
    found = top if isinstance(top, dict) else {}
    state = next((found[key] for key in LAYOUTS if isinstance(found.get(key), dict)), found)
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise UserError(f"no named tensors, neither at its top nor under {', '.join(LAYOUTS)}")
    return tensors


def _array(tensor: Tensor, raw: bytes) -> np.ndarray:
    """A view of the storage's bytes `raw` as an array of the tensor's shape.

    Raises:
      UserError: an element would be outside of the storage, or the tensor has more elements than
        the storage.
    """
    storage, offset, shape, strides = tensor
    dtype = DTYPES[storage.kind]
    if len(raw) != storage.nbytes:
        raise UserError(
            "a storage is shorter or longer than its pickle says: the file is damaged or cut short"
        )
    # Checked with Python's integers, because numpy's own check of strides can overflow.
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    within = min([offset, *shape, *strides]) >= 0 and last < storage.numel
    if not within or math.prod(shape) > storage.numel:
        raise UserError("a tensor repeats its storage or reaches out of it")
    bytewise = [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, buffer=raw, offset=offset * dtype.itemsize, strides=bytewise)


def write_tensors(path: str | os.PathLike | BinaryIO, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, as float32, as `torch.save` writes a state_dict."""
    arrays = {name: np.asarray(array, "<f4", order="C") for name, array in tensors.items()}
    items = b""
    for i, (name, array) in enumerate(arrays.items()):
        items += _pickled(name) + _pickled_tensor(str(i), array)
    # Protocol 2, an empty OrderedDict, a mark, the items, "set all items after the mark", stop.
    content = b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u."
    parts = {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}
    parts |= {f"data/{i}": array.tobytes() for i, array in enumerate(arrays.values())}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            # ZipInfo has a fixed time by default, so the same weights give the same file.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), part)


def _pickled(*values: Any) -> bytes:
    """The opcodes that put values on the unpickler's stack, one after another."""
    # Without a pickle's first two bytes, its protocol, and its last byte, the stop.
    return b"".join(pickle.dumps(value, 2)[2:-1] for value in values)


def _pickled_tensor(key: str, array: np.ndarray) -> bytes:
    """The opcodes that put a tensor, whose storage has the name `key`, on the unpickler's stack."""
    # A storage is a persistent id, ("storage", type, key, device, number of elements).
    storage = b"(" + _pickled("storage") + b"ctorch\nFloatStorage\n"
    storage += _pickled(key, "cpu", array.size) + b"tQ"
    # _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    window = _pickled(0, array.shape, strides, False)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + window + ORDERED_DICT + b"tR"
