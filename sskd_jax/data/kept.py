"""What takes long to find out about a dataset, in a file for the next start."""

import contextlib
import os
import pathlib
import secrets
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

Arrays = dict[str, np.ndarray]


def kept(path: pathlib.Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that were kept in a file under this very key, or else those that `make` returns, kept from now on."""
    arrays = _read(path, key)
    if arrays is None:
        arrays = make()
        _write(path, key=key, **arrays)
    return arrays


def _read(path: pathlib.Path, key: str) -> Arrays | None:
    """The arrays by name, or None where they are absent, of other files, or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return (
                {name: stored[name] for name in stored.files} if str(stored["key"]) == key else None
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: pathlib.Path, **arrays: Any) -> None:
    """Writes the arrays at once or not at all; a folder that is read-only or full only costs the next start time."""
    part = path.with_name(
        f"{path.name}.{secrets.token_hex(4)}.part"
    )  # several runs may start together
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part, path)
    except OSError as error:
        logging.warning("%s can't be kept (%s): every start will make it again", path, error)
    finally:
        with contextlib.suppress(
            OSError
        ):  # a read-only disk refuses even to delete what is not there
            part.unlink(missing_ok=True)
