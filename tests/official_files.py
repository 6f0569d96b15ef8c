"""Writes tiny CIFAR files like the official ones, which Python 2 and numpy 1 pickled."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np

from sskd_jax.data.prepared import OFFICIAL_FOLDER as FOLDERS


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes alike as Python 2's strings, which are bytes."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

    dispatch[str] = dispatch[bytes] = save_string


def dump(path: Path, content: dict[str, object]) -> None:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    path.write_bytes(stream.getvalue().replace(b"numpy._core.", b"numpy.core."))


def batch(count: int, seed: int, name: str = "cifar100") -> dict[str, object]:
    """The content of an official file, with `count` random images."""
    random = np.random.default_rng(seed)
    content = {"data": random.integers(0, 256, (count, 3072), np.uint8), "batch_label": "a batch"}
    if name == "cifar10":
        return content | {"labels": random.integers(0, 10, count).tolist()}
    fine, coarse = random.integers(0, 100, count).tolist(), random.integers(0, 20, count).tolist()
    return content | {"fine_labels": fine, "coarse_labels": coarse}


def cifar100(parent: Path, **train: object) -> Path:
    """An official folder of 30 training and 12 test images; `train` replaces keys of file train."""
    folder = parent / FOLDERS["cifar100"]
    folder.mkdir()
    dump(folder / "train", batch(30, 0) | train)
    dump(folder / "test", batch(12, 1))
    names = {
        "fine_label_names": [f"fine {i}" for i in range(100)],
        "coarse_label_names": [f"c {i}" for i in range(20)],
    }
    dump(folder / "meta", names)
    return folder


def cifar10(parent: Path) -> Path:
    """An official folder with five files of 6 training images, and 12 test images."""
    folder = parent / FOLDERS["cifar10"]
    folder.mkdir()
    for i in range(1, 6):
        dump(folder / f"data_batch_{i}", batch(6, i, "cifar10"))
    dump(folder / "test_batch", batch(12, 6, "cifar10"))
    dump(
        folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)], "num_vis": 3072}
    )
    return folder


def archive(folder: Path) -> Path:
    path = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, folder.name)
    return path


class Evil:
    """An object whose pickle makes the folder `trace` when it is read without restrictions."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)
