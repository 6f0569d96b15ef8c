"""Reads the official Python files of CIFAR, from their folder or archive, without running what a pickle asks for."""

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
    """What an official archive holds; labels are (field of the pickle, number of classes) by tfds's feature name."""

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
    """Stands for numpy's array and dtype in a pickle: keeps what the pickle says of them and does nothing."""

    def __init__(self, *args: Any):
        self.args, self.state = args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Stored,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Stored,
}


def find(name: str, parent: epath.Path) -> epath.Path | None:
    """The official folder in a folder, or else the archive."""
    candidates = (parent / LAYOUTS[name].folder, parent / LAYOUTS[name].archive)
    return next((path for path in candidates if path.exists()), None)


def read(name: str, source: epath.Path) -> tuple[dict[str, Examples], dict[str, list[str]]]:
    """The splits by name and the class names by tfds's feature name.

    Args:
      name: cifar10 or cifar100.
      source: the official folder, the folder around it, or the .tar.gz.
    """
    layout = LAYOUTS[name]
    content = _content(source, layout)
    splits = {
        split: _join([_examples(content[file], f"{source}: {file}", layout) for file in files])
        for split, files in layout.files.items()
    }
    return splits, _class_names(content[layout.meta], f"{source}: {layout.meta}", layout)


def _content(source: epath.Path, layout: Layout) -> dict[str, dict[bytes, Any]]:
    """The dictionary in each official file, by the file's name."""
    wanted = [*layout.files["train"], *layout.files["test"], layout.meta]
    try:
        found = {
            name: safe_pickle.load(file, ALLOWED, encoding="bytes")
            for name, file in _files(source, layout.folder)
            if name in wanted
        }
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{source} cannot be read ({first_line(error)}): fetch it again") from error
    for name in wanted:
        if not isinstance(found.get(name), dict):
            raise UserError(
                f"{source} lacks the official file {name}: give the folder {layout.folder} or its .tar.gz"
            )
    return found


def _files(source: epath.Path, folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """Names of the files in the official folder, and the files, open."""
    if source.is_file():
        yield from _members(source, folder)
    elif source.is_dir():
        for path in (source / folder if (source / folder).is_dir() else source).iterdir():
            if path.is_file():
                with path.open("rb") as file:
                    yield path.name, file
    else:
        raise UserError(
            f"--source={source} does not exist: give the official folder {folder} or its .tar.gz"
        )


def _members(archive: epath.Path, folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """The same out of an archive, in one pass and in memory: nothing is unpacked to the disk."""
    with archive.open("rb") as file, tarfile.open(fileobj=file) as members:
        for member in members:
            path = pathlib.PurePosixPath(member.name)
            if member.isfile() and path.parent.name == folder:
                yield path.name, members.extractfile(member)


def _examples(content: Mapping[bytes, Any], where: str, layout: Layout) -> Examples:
    """The examples of one file; their pixels are stored as channel, row, column."""
    pixels = _pixels(content.get(b"data"), where)
    labels = {
        feature: _labels(content.get(field), len(pixels), classes, f"{where}: {field.decode()}")
        for feature, (field, classes) in layout.labels.items()
    }
    return Examples(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)


def _pixels(stored: Any, where: str) -> np.ndarray:
    """uint8[N, 3072] from what numpy pickled: (version, shape, dtype, column by column, bytes)."""
    try:
        _, shape, dtype, by_column, content = stored.state
        if dtype.args[0] == b"u1" and shape[0] > 0 and shape[1:] == (3072,):
            return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_column else "C")
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError):
        pass  # some part of it is missing, or of another type
    raise UserError(f"{where}: its data is no array uint8[N, 3072]: not the official file")


def _labels(value: Any, count: int, classes: int, where: str) -> list[int]:
    """The labels, if they are `count` whole numbers below `classes`."""
    if not isinstance(value, list) or len(value) != count:
        raise UserError(
            f"{where} is not a list of {count} labels, one per image: not the official file"
        )
    if not all(isinstance(label, int) and 0 <= label < classes for label in value):
        raise UserError(f"{where} has labels outside 0..{classes - 1}: not the official file")
    return value


def _join(parts: list[Examples]) -> Examples:
    """The examples of several files in a row."""
    labels = {
        key: [label for part in parts for label in part.labels[key]] for key in parts[0].labels
    }
    return Examples(np.concatenate([part.image for part in parts]), labels)


def _class_names(meta: Mapping[bytes, Any], where: str, layout: Layout) -> dict[str, list[str]]:
    """The names of the classes by feature; the field of `fine_labels` is called `fine_label_names`."""
    names = {
        feature: meta.get(field[:-1] + b"_names") for feature, (field, _) in layout.labels.items()
    }
    for feature, (_, classes) in layout.labels.items():
        value = names[feature]
        if (
            not isinstance(value, list)
            or len(value) != classes
            or not all(isinstance(x, bytes) for x in value)
        ):
            raise UserError(
                f"{where} does not name {classes} classes for {feature}: not the official file"
            )
    return {
        feature: [name.decode(errors="replace") for name in value]
        for feature, value in names.items()
    }
