"""Folders of class folders, as they are used with PyTorch: SOURCE/train/CLASS/IMAGE and SOURCE/val/CLASS/IMAGE.

Or SOURCE/CLASS/IMAGE alone, of which a share is held out.
"""

import io
import itertools
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from sskd_jax.types import UserError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
HELD_OUT = ("val", "validation", "test")  # what the folder beside train may be called
JPEG = b"\xff\xd8"
QUALITY = 95  # of images that were no JPEG


class Folder(NamedTuple):
    """Image files by split ("train", "validation"), sorted by class and name, and the names of the classes."""

    files: dict[str, list[pathlib.Path]]
    classes: list[str]


def read(source: pathlib.Path, share: float, known: Sequence[str] | None = None) -> Folder:
    """What a folder holds.

    Args:
      source: with train/ and val/, or with class folders alone.
      share: of every class that is held out where there is no val/.
      known: the classes where the dataset's names are given; None: those of the training images.
    """
    if not source.is_dir():
        raise UserError(
            f"--source={source} is no folder: give one with train/CLASS/IMAGE and val/CLASS/IMAGE"
        )
    if (source / "train").is_dir():
        other = next((source / name for name in HELD_OUT if (source / name).is_dir()), None)
        if other is None:
            raise UserError(
                f"{source} has train/, but no val/: add it, or give {source / 'train'}, of which a part is "
                "held out"
            )
        files = {"train": images(source / "train"), "validation": images(other)}
    else:
        files = divided(images(source), share)
    classes = list(known or dict.fromkeys(path.parent.name for path in files["train"]))
    for folder in {path.parent for paths in files.values() for path in paths}:
        if folder.name not in classes:
            raise UserError(
                f"{folder} is none of the {len(classes)} classes ({', '.join(classes[:3])}, ...): rename "
                "or remove it"
            )
    return Folder(files, classes)


def images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The image files in the class folders of `folder`."""
    found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(
            f"{folder} has no CLASS/IMAGE: images ({', '.join(SUFFIXES)}) must lie in a folder per class"
        )
    return found


def divided(files: list[pathlib.Path], share: float) -> dict[str, list[pathlib.Path]]:
    """A random share of every class, one image at least, as "validation"."""
    random, parts = np.random.RandomState(0), {"train": [], "validation": []}
    for name, group in itertools.groupby(files, lambda path: path.parent):
        member = list(group)
        count = max(1, round(share * len(member)))
        if count >= len(member):
            raise UserError(f"{name} has {len(member)} images: too few to hold {share} of them out")
        held = set(random.permutation(len(member))[:count])
        for i, path in enumerate(member):
            parts["validation" if i in held else "train"].append(path)
    return parts


def rows(split: str, files: Sequence[pathlib.Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and examples as tfds's builders yield them. What is no image is named and left out."""
    for path in tqdm(files, f"writing {split}", unit=" images", disable=None):
        key = f"{path.parent.name}/{path.name}"
        try:
            content = jpeg(path)
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:  # of PIL's readers
            reason = getattr(error, "strerror", None) or "no image that can be read"
            tqdm.write(f"damaged  {path} is left out ({reason})", file=sys.stderr)
            continue
        yield key, {"image": io.BytesIO(content), "label": path.parent.name, "file_name": path.name}


def jpeg(path: pathlib.Path) -> bytes:
    """A file's content if it is a JPEG; other images become one."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:  # reads the header
        if content.startswith(JPEG):
            return content
        out = io.BytesIO()
        image.convert("RGB").save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()
