"""Datasets as tfds prepared them, on a disk or in a bucket: found, and looked over before anything is read."""

import os
import shlex
from collections.abc import Sequence
from typing import Any

from etils import epath

from sskd_jax.system.paths import locate
from sskd_jax.types import UserError

OFFICIAL_FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


class Unknown(UserError):
    """Neither the catalogue nor the folder has a dataset of this name."""


def root(data_dir: str | None) -> epath.Path:
    """The folder of tfds datasets."""
    return locate(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def open_builder(name: str, data_dir: str | None) -> Any:
    """The tfds builder of `name`, by the catalogue or as it was prepared; reads no images, needs no TensorFlow.

    Raises:
      Unknown: there is none.
      UserError: what was prepared can't be understood.
    """
    import tensorflow_datasets as tfds

    folder = root(data_dir)
    try:
        return tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        raise Unknown(
            f"there is no dataset {name} in {folder}, nor in tfds's catalogue: prepare it with "
            f"{command(name, folder)}"
        ) from error
    except Exception as error:  # what stands in dataset_info.json and features.json decides which
        raise UserError(
            f"{folder / name} is damaged ({first_line(error)}): delete it and prepare it again"
        ) from error


def is_prepared(builder: Any, splits: Sequence[str]) -> bool:
    """Whether the dataset is there, all of it; a `UserError` where it is there only in part."""
    folder = epath.Path(builder.data_dir)
    if not folder.exists():
        return False
    stored = builder.info.splits
    files = [folder / "dataset_info.json", folder / "features.json"]
    files += [epath.Path(path) for split in stored.values() for path in split.filepaths]
    missing = [path.name for path in files if not path.exists()]
    missing += [f"the {split} split" for split in splits if split not in stored]
    if missing:
        raise damaged(builder, f"it lacks {missing[0]}")
    return True


def damaged(builder: Any, reason: str) -> UserError:
    """What to say of a dataset that was written in part, cut short or damaged later."""
    return UserError(
        f"{builder.data_dir} is not whole ({reason}): delete it, then type: "
        f"{command(builder.name, home(builder))}"
    )


def home(builder: Any) -> str:
    """The folder of tfds datasets that a builder's lies in."""
    return str(builder.data_dir).rsplit(f"/{builder.name}/", 1)[0]


def command(name: str, data_dir: Any) -> str:
    """What to type to prepare a dataset from files that are there."""
    source = OFFICIAL_FOLDER.get(name)
    what = f"{name} --source={source}" if source else f"imagefolder --name={name} --source=FOLDER"
    return f"python -m sskd_jax.data.prepare {what} --data_dir={shlex.quote(str(data_dir))}"


def first_line(error: Exception) -> str:
    """The first line of what a library has to say."""
    return (str(error).splitlines() or [""])[0].rstrip(":") or type(error).__name__
