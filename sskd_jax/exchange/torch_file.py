"""The files that `torch.save` writes, without PyTorch: written, and read without running anything that is in them.

Since PyTorch 1.6 such a file is a zip archive: a pickle, and one entry of raw numbers per storage. Before, it was a row
of pickles with the storages behind them. In both, the pickle describes a tensor as a strided window of a storage.
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
LAYOUTS = (
    "state_dict",
    "model",
    "net",
)  # keys under which training scripts put the weights; without one: bare
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
    """A flat array in the file: its key there, the name of its type in `DTYPES`, and its length."""

    key: str
    kind: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.kind].itemsize


class Tensor(NamedTuple):
    """A window of a storage; offset and strides count elements. Nothing of it is checked before `_array`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Inert:
    """Stands for what a training checkpoint holds beside its weights: takes anything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class PlainDict(dict):
    """A dictionary without attributes; PyTorch hangs `_metadata` on its state_dicts."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


INERT = {
    "argparse": ("Namespace",),
    "collections": ("Counter",),
    "_codecs": ("encode",),
    "numpy": ("dtype",),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),
    "torch": (
        "device",
        "bool",
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
    ),
}
ALLOWED = {
    ("collections", "OrderedDict"): PlainDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", kind): kind for kind in DTYPES},
    **{(module, name): Inert for module, names in INERT.items() for name in names},
}
Fetch = Callable[[Storage], bytes]  # the raw little-endian numbers of a storage


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint, as read-only arrays.

    Raises:
      UserError: the file is missing, damaged, asks for code to be run, or holds no named tensors.
    """
    try:
        content = epath.Path(path).read_bytes()
        if not content:
            raise UserError("the file is empty")
        top, fetch = _read_zip(content) if content.startswith(b"PK") else _read_legacy(content)
        return {
            name: _array(tensor, fetch(tensor.storage))
            for name, tensor in _named_tensors(top).items()
        }
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can fail in any of these operations
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} is not a whole PyTorch checkpoint: {reason}") from error


def _read_zip(content: bytes) -> tuple[Any, Fetch]:
    """(the pickled object, how to get at its storages) of a file of PyTorch 1.6 or later."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    root = next(
        (name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None
    )
    if root is None:
        raise UserError("this zip archive is no PyTorch checkpoint: it has no data.pkl")
    swapped = f"{root}byteorder" in names and _entry(archive, f"{root}byteorder") == b"big"

    @functools.cache
    def fetch(storage: Storage) -> bytes:
        raw = _entry(archive, f"{root}data/{storage.key}")
        return (
            np.frombuffer(raw, f"u{DTYPES[storage.kind].itemsize}").byteswap().tobytes()
            if swapped
            else raw
        )

    return _unpickled(io.BytesIO(_entry(archive, f"{root}data.pkl")), {}), fetch


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry of the archive, which takes no more memory than the file does."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise UserError(f"its entry {name[:100]!r} is compressed, which PyTorch never does")
    return archive.read(name)


def _read_legacy(content: bytes) -> tuple[Any, Fetch]:
    """The same of a file of PyTorch before 1.6: magic number, protocol, sizes, object, storage keys, storages."""
    file = io.BytesIO(content)
    if safe_pickle.load(file, {}) != LEGACY_MAGIC:
        raise UserError("it is a pickle, but not one of PyTorch's")
    for _ in ("protocol", "sizes"):
        safe_pickle.load(file, {})
    storages: dict[str, Storage] = {}
    top = _unpickled(file, storages)
    raw = {key: _next_storage(file, storages[key]) for key in safe_pickle.load(file, {})}
    return top, lambda storage: raw[storage.key]


def _next_storage(file: io.BytesIO, storage: Storage) -> bytes:
    """Its length as int64, then its numbers; always little-endian."""
    if struct.unpack("<q", file.read(8)) != (storage.numel,):
        raise UserError(
            "the length of a storage is not what its pickle says: the file is damaged or cut short"
        )
    return file.read(storage.nbytes)


def _unpickled(file: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """The next object of `file`, with `Tensor`s in it; fills `storages` with those that they refer to."""

    def persistent_load(reference: tuple) -> Storage:
        what, kind, key, _, numel, *view = reference
        if (
            what != "storage"
            or kind not in DTYPES
            or type(key) is not str
            or type(numel) is not int
            or numel < 0
        ):
            raise ValueError("unknown kind of storage")
        if view not in ([], [None]):
            raise ValueError("storages that are views of others are not supported")
        storage = Storage(key, kind, numel)
        if storages.setdefault(key, storage) != storage:
            raise ValueError("storages of several types in one place are not supported")
        return storage

    return safe_pickle.load(file, ALLOWED, encoding="utf-8", persistent_load=persistent_load)


def _named_tensors(top: Any) -> dict[str, Tensor]:
    """The state_dict in a checkpoint of any layout in use."""
    found = top if isinstance(top, dict) else {}
    state = next((found[key] for key in LAYOUTS if isinstance(found.get(key), dict)), found)
    tensors = {
        name: x for name, x in state.items() if isinstance(name, str) and isinstance(x, Tensor)
    }
    if not tensors:
        raise UserError(f"no named tensors, neither at its top nor under {', '.join(LAYOUTS)}")
    return tensors


def _array(tensor: Tensor, raw: bytes) -> np.ndarray:
    """A view of the storage [shape], once it is sure that every element lies within; no element is there twice."""
    storage, offset, shape, strides = tensor
    dtype = DTYPES[storage.kind]
    if len(raw) != storage.nbytes:
        raise UserError(
            "a storage is shorter or longer than its pickle says: the file is damaged or cut short"
        )
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # Checked with Python's integers, because numpy's own check of strides can overflow.
    if (
        min([offset, *shape, *strides]) < 0
        or math.prod(shape) > storage.numel
        or last >= storage.numel
    ):
        raise UserError("a tensor repeats its storage or reaches out of it")
    bytewise = [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, buffer=raw, offset=offset * dtype.itemsize, strides=bytewise)


def write_tensors(path: str | os.PathLike | BinaryIO, tensors: Mapping[str, np.ndarray]) -> None:
    """Float32 arrays as `torch.save` writes a state_dict, without PyTorch."""
    arrays = {name: np.asarray(x, "<f4", order="C") for name, x in tensors.items()}
    items = b"".join(
        _pickled(name) + _pickled_tensor(str(i), x) for i, (name, x) in enumerate(arrays.items())
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u.")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", array.tobytes())


def _pickled(x: Any) -> bytes:
    """The opcodes that put x on the stack."""
    return pickle.dumps(x, 2)[2:-1]


def _pickled_tensor(key: str, array: np.ndarray) -> bytes:
    """PyTorch's call that makes a tensor: of the storage `key`, offset, shape, strides, no gradient, no hooks."""
    storage = (
        b"("
        + _pickled("storage")
        + b"ctorch\nFloatStorage\n"
        + b"".join(map(_pickled, (key, "cpu", array.size)))
    )
    strides = tuple(stride // array.itemsize for stride in array.strides)
    window = b"".join(map(_pickled, (0, array.shape, strides, False)))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + window + ORDERED_DICT + b"tR"
