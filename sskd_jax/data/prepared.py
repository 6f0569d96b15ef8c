"""Finds and checks datasets that tfds prepared, on a disk or in a bucket, without reading them."""

import contextlib
import os
import pathlib
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from sskd_jax.system.paths import is_remote, locate, take_lock
from sskd_jax.system.quiet import Missing
from sskd_jax.types import UserError

NOTE = ".preparing"  # a file with the name of the temporary folder to which a dataset is written
FORGOTTEN_SECONDS = 24 * 3600
OFFICIAL_FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


class Unknown(UserError):
    """Neither tfds's catalogue nor the folder of datasets has a dataset of this name."""


class Busy(UserError):
    """Another process is writing the dataset."""


def root(data_dir: str | None) -> epath.Path:
    """The folder of tfds datasets: `data_dir`, or else TFDS_DATA_DIR, or else tfds's default."""
    return locate(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def open_builder(name: str, data_dir: str | None) -> Any:
    """The tfds builder of a dataset, from the catalogue or from the prepared files.

    It reads no images and needs no TensorFlow.

    Raises:
      Unknown: there is no such dataset.
      UserError: the name is none that tfds reads, the prepared files are damaged, or tfds is not
        installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise Missing("tensorflow-datasets") from error

    folder = root(data_dir)
    try:
        return tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        raise Unknown(
            f"there is no dataset {name} in {folder}, nor in tfds's catalogue: prepare it with "
            f"{command(name, folder)}"
        ) from error
    except Exception as error:  # any, as dataset_info.json and features.json may hold anything
        place, _, _ = name.partition(":")  # without a version
        if not place or not (folder / place).exists():
            raise UserError(
                f"there is no dataset {name!r} ({first_line(error)}): give a name such as food101, "
                "of small letters, digits and _"
            ) from error
        raise UserError(
            f"{folder / name} is damaged ({first_line(error)}): delete it and prepare it again"
        ) from error


def is_prepared(builder: Any, splits: Sequence[str]) -> bool:
    """Whether a builder's dataset is on the disk, with all files and all of `splits`.

    Raises:
      UserError: a part of it is missing.
    """
    folder = epath.Path(builder.data_dir)
    if not folder.exists():
        return False
    stored = builder.info.splits
    files = ["dataset_info.json", "features.json"]
    files += [epath.Path(path).name for split in stored.values() for path in split.filepaths]
    there = {path.name for path in folder.iterdir()}  # one request, where it lies in a bucket
    missing = [name for name in files if name not in there]
    missing += [f"the {split} split" for split in splits if split not in stored]
    if missing:
        raise damaged(builder, f"it lacks {missing[0]}")
    return True


@contextlib.contextmanager
def alone(builder: Any) -> Iterator[None]:
    """A context in which no other process of sskd_jax writes a builder's dataset.

    tfds writes to a temporary folder, which remains if the process is killed. Its name is noted,
    and the next process that writes the dataset deletes it, and all folders that are
    `is_forgotten`. A bucket has no locks; there, nothing is done.

    Raises:
      Busy: another process is writing the dataset.
    """
    parent, generators = pathlib.Path(builder.data_dir).parent, builder._split_generators
    if is_remote(builder.data_dir):
        yield
        return
    parent.mkdir(parents=True, exist_ok=True)
    with open(parent / NOTE, "a+") as note:
        if not take_lock(note):
            raise Busy(f"another process writes {builder.name} to {home(builder)}: wait for it")
        note.seek(0)
        left = pathlib.Path(note.read()).name
        for folder in parent.glob("incomplete.*"):
            if folder.name == left or is_forgotten(folder):
                shutil.rmtree(folder, ignore_errors=True)

        def noted_generators(*args: Any, **kwargs: Any) -> Any:
            note.truncate(0)
            note.write(str(builder.data_dir))  # at this point, the temporary folder
            note.flush()
            return generators(*args, **kwargs)

        builder._split_generators = noted_generators
        try:
            yield
        finally:
            builder._split_generators = generators
            (parent / NOTE).unlink(missing_ok=True)


def is_forgotten(folder: pathlib.Path) -> bool:
    """Whether nothing in a folder has changed for a day, so that no process is writing to it."""
    try:
        changed = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    except OSError:  # something in it was renamed or deleted just now
        return False
    return time.time() - max(changed) > FORGOTTEN_SECONDS


def damaged(builder: Any, reason: str) -> UserError:
    """The error to raise for a prepared dataset that is cut short, lacks a part or is damaged."""
    return UserError(
        f"{builder.data_dir} is not whole ({reason}): delete it, then type: "
        f"{command(builder.name, home(builder))}"
    )


def origin(builder: Any) -> epath.Path:
    """The file, next to a folder's dataset, with the digest of the images that it contains."""
    folder = epath.Path(builder.data_dir)
    return folder.parent / f".{folder.name}.origin"


def fingerprint(builder: Any) -> dict[str, str]:
    """What tells a dataset from others, wherever it lies and in whichever format.

    It is how many images and bytes every split has, and its `origin` if that is there.
    """
    sizes = (
        f"{split.num_examples} {name} images of {int(split.num_bytes)} bytes"
        for name, split in builder.info.splits.items()
    )
    found, file = {"dataset": " and ".join(sizes)}, origin(builder)
    return found | ({"origin": file.read_text()[:16]} if file.exists() else {})


def usual_format(builder: Any) -> str:
    """In which files a dataset is written: TFRecord in a bucket, as array_record needs a disk."""
    return "tfrecord" if is_remote(builder.data_dir) else "array_record"


def home(builder: Any) -> str:
    """The folder of datasets: DIR for a builder whose dataset is DIR/NAME/VERSION."""
    return str(builder.data_dir).rsplit(f"/{builder.name}/", 1)[0]


def command(name: str, data_dir: Any) -> str:
    """The command line that prepares a dataset from files which the user has."""
    source = OFFICIAL_FOLDER.get(name)
    what = f"{name} --source={source}" if source else f"imagefolder --name={name} --source=FOLDER"
    return f"python -m sskd_jax prepare {what} --data_dir={shlex.quote(str(data_dir))}"


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its type if it has none."""
    return (str(error).splitlines() or [""])[0].rstrip(":") or type(error).__name__
