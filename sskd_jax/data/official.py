"""Reads CIFAR's official Python files from their folder or archive, without running code in them.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and
https://www.cs.toronto.edu/~kriz/cifar.html, which describes the files.
"""

import pathlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from etils import epath

from sskd_jax.data.prepared import OFFICIAL_FOLDER, first_line
from sskd_jax.system import safe_pickle
from sskd_jax.types import UserError


class Layout(NamedTuple):
    """The content of an official archive.

    Attributes:
      archive: its name.
      folder: the folder in it.
      files: names of the files by split.
      meta: the file with the names of the classes.
      labels: (field of the pickle, number of classes) by tfds's feature name.
    """

    archive: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    meta: str
    labels: Mapping[str, tuple[bytes, int]]


class Examples(NamedTuple):
    """One split: image uint8[N, 32, 32, 3], and labels int[N] by tfds's feature name."""

    image: np.ndarray
    labels: Mapping[str, list[int]]


LAYOUTS = {
    "cifar10": Layout(
        "cifar-10-python.tar.gz",
        OFFICIAL_FOLDER["cifar10"],
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        "batches.meta",
        {"label": (b"labels", 10)},
    ),
    "cifar100": Layout(
        "cifar-100-python.tar.gz",
        OFFICIAL_FOLDER["cifar100"],
        {"train": ("train",), "test": ("test",)},
        "meta",
        {"label": (b"fine_labels", 100), "coarse_label": (b"coarse_labels", 20)},
    ),
}


class _Stored:
    """Replaces NumPy's array and dtype in a pickle: keeps its arguments and does nothing."""

    def __init__(self, *args: Any):
        self.args, self.state = args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


LARGEST = 2**30  # bytes to which an archive may unpack; the official ones have 190 MB

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Stored,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Stored,
}


def find(name: str, parent: epath.Path) -> epath.Path | None:
    """The official folder of a dataset in the folder `parent`, or else its archive, or None.

    `parent` may be the official folder itself.
    """
    layout = LAYOUTS[name]
    candidates = [parent / layout.folder, parent / layout.archive]
    if parent.name == layout.folder:
        candidates.append(parent)
    return next((path for path in candidates if path.exists()), None)


def read(name: str, source: epath.Path) -> tuple[dict[str, Examples], dict[str, list[str]]]:
    """Splits by name, and class names by tfds's feature name.

    Args:
      name: cifar10 or cifar100.
      source: the official folder, the folder around it, or the .tar.gz.

    Raises:
      UserError: a file is missing, damaged, or not the official one.
    """
    layout = LAYOUTS[name]
    content = _content(source, layout)
    splits = {}
    for split, files in layout.files.items():
        parts = [_examples(content[file], f"{source}: {file}", layout) for file in files]
        splits[split] = _concatenate(parts)
    return splits, _class_names(content[layout.meta], f"{source}: {layout.meta}", layout)


def _content(source: epath.Path, layout: Layout) -> dict[str, dict[bytes, Any]]:
    """The dictionary in each official file, by the file's name."""
    wanted = [*layout.files["train"], *layout.files["test"], layout.meta]
    found = {}
    try:
        for name, file in _files(source, layout.folder):
            if name in wanted:
                found[name] = safe_pickle.load(file, ALLOWED, encoding="bytes")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{source} cannot be read ({first_line(error)}): fetch it again") from error
    for name in wanted:
        if not isinstance(found.get(name), dict):
            raise UserError(
                f"{source} lacks the official file {name}: give the folder {layout.folder} or its "
                ".tar.gz"
            )
    return found


def _files(source: epath.Path, folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yields (name, open file) of every file in the official folder or archive."""
    if safe_pickle.is_endless(source):
        raise UserError(
            f"{source} is a pipe or a device: give the official folder {folder} or its .tar.gz"
        )
    if source.is_file():
        yield from _members(source, folder)
    elif source.is_dir():
        inner = source / folder
        for path in (inner if inner.is_dir() else source).iterdir():
            if path.is_file() and not safe_pickle.is_endless(path):
                with path.open("rb") as file:
                    yield path.name, file
    else:
        raise UserError(
            f"--source={source} does not exist: give the official folder {folder} or its .tar.gz"
        )


def _members(archive: epath.Path, folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yields (name, open file) from an archive in one pass; nothing is unpacked to the disk."""
    with archive.open("rb") as file, tarfile.open(fileobj=file) as members:
        for member in members:
            if member.offset_data + member.size > LARGEST:
                raise UserError(
                    f"{archive} unpacks to more than {LARGEST >> 20} MiB, so it is not the "
                    "official one: fetch it again"
                )
            path = pathlib.PurePosixPath(member.name)
            if member.isfile() and path.parent.name == folder:
                yield path.name, members.extractfile(member)


def _examples(content: Mapping[bytes, Any], where: str, layout: Layout) -> Examples:
    """The checked examples of one file."""
    pixels = _pixels(content.get(b"data"), where)
    labels = {}
    for feature, (field, classes) in layout.labels.items():
        field_name = f"{where}: {field.decode()}"
        labels[feature] = _labels(content.get(field), len(pixels), classes, field_name)
    # An image is stored as channel, row, column.
    return Examples(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)


def _pixels(stored: Any, where: str) -> np.ndarray:
    """The array uint8[N, 3072] that numpy pickled as (version, shape, dtype, by column, bytes)."""
    try:
        _, shape, dtype, by_column, content = stored.state
        if dtype.args[0] == b"u1" and shape[0] > 0 and shape[1:] == (3072,):
            return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_column else "C")
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError):
        pass  # a part of it is missing, or of another type
    raise UserError(f"{where}: its data is no array uint8[N, 3072]: not the official file")


def _labels(value: Any, count: int, classes: int, where: str) -> list[int]:
    """The value, if it is a list of `count` whole numbers in [0, classes)."""
    if not isinstance(value, list) or len(value) != count:
        raise UserError(
            f"{where} is not a list of {count} labels, one per image: not the official file"
        )
    if not all(isinstance(label, int) and 0 <= label < classes for label in value):
        raise UserError(f"{where} has labels outside 0..{classes - 1}: not the official file")
    return value


def _concatenate(parts: list[Examples]) -> Examples:
    """The examples of several files, one after another."""
    labels = {}
    for feature in parts[0].labels:
        labels[feature] = [label for part in parts for label in part.labels[feature]]
    return Examples(np.concatenate([part.image for part in parts]), labels)


def _class_names(meta: Mapping[bytes, Any], where: str, layout: Layout) -> dict[str, list[str]]:
    """Names of the classes by tfds's feature name."""
    names = {}
    for feature, (field, classes) in layout.labels.items():
        value = meta.get(field[:-1] + b"_names")  # fine_label_names for fine_labels
        if not isinstance(value, list) or len(value) != classes or not _all_bytes(value):
            raise UserError(
                f"{where} does not name {classes} classes for {feature}: not the official file"
            )
        names[feature] = [name.decode(errors="replace") for name in value]
    return names


def _all_bytes(values: list[Any]) -> bool:
    return all(isinstance(value, bytes) for value in values)
