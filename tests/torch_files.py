"""Writes PyTorch checkpoints, which are pickles that name PyTorch's globals, without PyTorch."""

import io
import pickle
import zipfile
from typing import Any, NamedTuple

import jax
import numpy as np

from sskd_jax.exchange import torch_bridge, torch_file

KINDS = {dtype: kind for kind, dtype in torch_file.DTYPES.items()}


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Global
    args: tuple


class Reference(NamedTuple):
    id: tuple


class Raw(NamedTuple):
    code: bytes  # of a pickle


def encoded(x: Any) -> bytes:
    """The pickle opcodes that put x on the stack."""
    match x:
        case Raw():
            return x.code
        case Global():
            return f"c{x.module}\n{x.name}\n".encode()
        case Call():
            return encoded(x.function) + encoded(x.args) + b"R"
        case Reference():
            return encoded(x.id) + b"Q"
        case dict():
            return (
                b"}(" + b"".join(encoded(key) + encoded(value) for key, value in x.items()) + b"u"
            )
        case tuple():
            return b"(" + b"".join(map(encoded, x)) + b"t"
        case _:
            return pickle.dumps(x, 2)[2:-1]


def pickled(x: Any) -> bytes:
    return b"\x80\x02" + encoded(x) + b"."


ORDERED_DICT = Call(Global("collections", "OrderedDict"), ())


def storage(key: str, array: np.ndarray, *view: Any) -> Reference:
    return Reference(
        ("storage", Global("torch", KINDS[array.dtype]), key, "cpu", array.size, *view)
    )


def window(where: Reference, offset: Any, shape: Any, strides: Any) -> Call:
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (where, offset, shape, strides, False, ORDERED_DICT))


def tensor(key: str, array: np.ndarray, *view: Any) -> Call:
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return window(storage(key, array, *view), 0, array.shape, strides)


def zip_file(
    top: Any, arrays: dict, byteorder: str = "little", compression: int = zipfile.ZIP_STORED
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickled(top))
        archive.writestr("x/byteorder", byteorder)
        for key, array in arrays.items():
            archive.writestr(f"x/data/{key}", array.tobytes())
    return file.getvalue()


def legacy_file(top: Any, arrays: dict) -> bytes:
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = [torch_file.LEGACY_MAGIC, 1001, sizes, top, list(arrays)]
    return b"".join(map(pickled, head)) + b"".join(
        x.size.to_bytes(8, "little") + x.tobytes() for x in arrays.values()
    )


WRITERS = {
    "zip": (zip_file, ()),
    "legacy": (legacy_file, (None,)),
}  # and the last entries of a reference to a storage


def checkpoint(
    form: str, state: dict[str, np.ndarray], wrap: Any = lambda tensors: tensors
) -> bytes:
    """A file of `wrap(tensors)`, where `tensors` is the state_dict `state` in encodable form."""
    write, view = WRITERS[form]
    arrays = {
        str(i): np.ascontiguousarray(x).reshape(x.shape) for i, x in enumerate(state.values())
    }
    tensors = {
        name: tensor(key, x, *view) for name, (key, x) in zip(state, arrays.items(), strict=True)
    }
    return write(wrap(tensors), arrays)


def weights(name: str, num_classes: int = 7) -> dict[str, np.ndarray]:
    """A random state_dict of an architecture."""
    rng = np.random.default_rng(0)
    template = torch_bridge.template(name, num_classes)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), template)
    return torch_bridge.to_state_dict(name, variables)
