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

DIGEST = "sha256"  # the name of the array with the checksum of the others


def cached(path: pathlib.Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays by name, from a file if it was written with the same key, or else newly computed.

    Args:
      path: of the .npz file, which is written if it is absent, damaged or has another key. A
        folder that can't be written is no error: the next start computes the arrays again.
      key: describes everything on which the arrays depend.
      make: returns the arrays.
    """
    arrays = _read(path, key)
    if arrays is None:
        arrays = make()
        _write(path, {"key": np.asarray(key), **arrays})
    return arrays


def _read(path: pathlib.Path, key: str) -> Arrays | None:
    """The arrays in a file; None if it is absent, damaged or has another key."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            arrays = {name: stored[name] for name in stored.files}
        whole = str(arrays.pop(DIGEST)) == _digest(arrays)
    except Exception:  # any, as a flipped bit can cause any error in NumPy and zipfile
        return None
    return arrays if whole else None


def _write(path: pathlib.Path, arrays: Arrays) -> None:
    """Writes the whole file or nothing; if that fails, it only logs a warning."""
    stored: dict[str, Any] = arrays | {DIGEST: np.asarray(_digest(arrays))}
    # Runs that start together write separate files; that of the last one to finish remains.
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
    """Deletes the partial files of writers that were killed: those that no process has locked."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), part.open("rb") as file:
            if take_lock(file):
                part.unlink()


def _digest(arrays: Arrays) -> str:
    """A checksum of names, types, shapes and values.

    A .npz file has checksums itself, but they do not cover the names, and NumPy does not check that
    of an array which a damaged header describes as smaller than it is.
    """
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.hexdigest()
