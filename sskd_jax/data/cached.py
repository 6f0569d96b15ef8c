"""Stores facts about a dataset that take long to find out, for later starts."""

import contextlib
import glob
import hashlib
import os
import pathlib
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from sskd_jax.system.paths import take_lock

Arrays = dict[str, np.ndarray]

DIGEST = "sha256"  # the array that tells whether the others are as they were written


def cached(path: pathlib.Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays by name, out of a file if it was written under the same key, or else newly made.

    Args:
      path: of the .npz file, which is written where it is absent, damaged or of another key. A
        folder that can't be written to is no error: the next start makes the arrays again.
      key: whatever the arrays depend on.
      make: returns the arrays.
    """
    arrays = _read(path, key)
    if arrays is None:
        arrays = make()
        _write(path, {"key": np.asarray(key), **arrays})
    return arrays


def _read(path: pathlib.Path, key: str) -> Arrays | None:
    """The arrays in a file; None where it is absent, damaged or written under another key."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            arrays = {name: stored[name] for name in stored.files}
        whole = str(arrays.pop(DIGEST)) == _digest(arrays)
    except Exception:  # any: a flipped bit can have numpy and zipfile do whatever they can
        return None
    return arrays if whole else None


def _write(path: pathlib.Path, arrays: Arrays) -> None:
    """Writes the whole file or nothing; a disk that refuses it gets a warning alone."""
    stored: dict[str, Any] = arrays | {DIGEST: np.asarray(_digest(arrays))}
    # Runs that start together write files of their own; the last one to finish stays.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            take_lock(file)
            np.savez(file, **stored)
            os.replace(part, path)
        _delete_parts(path)
    except OSError as error:
        logging.warning("%s can't be kept (%s): every start will make it again", path, error)
    finally:
        # A read-only disk refuses to delete even a file that is not there.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _delete_parts(path: pathlib.Path) -> None:
    """Deletes what writers of a file have left that were killed: parts that nobody has locked."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), part.open("rb") as file:
            if take_lock(file):
                part.unlink()


def _digest(arrays: Arrays) -> str:
    """A check sum of names, types, shapes and numbers.

    A .npz file has check sums of its own, but numpy compares none of an array that a damaged header
    calls smaller than it is, and they say nothing about the names.
    """
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.hexdigest()
