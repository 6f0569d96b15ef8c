"""Folders of small JPEG images, in RGB, grey and CMYK, and datasets that are made of them."""

import csv
import io
import pathlib

import numpy as np
from PIL import Image

from sskd_jax.__main__ import main

FRAMING = dict(size=16, resize=20, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
CLASSES = ("daisy", "rose", "tulip")


def picture(seed: int, height: int = 40, width: int = 48) -> Image.Image:
    """A smooth random image, which JPEG compression hardly changes."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95)
    return out.getvalue()


def folder(root: pathlib.Path, train: int = 8, held_out: int = 3) -> pathlib.Path:
    """Writes images of several sizes to train/CLASS/*.jpg and val/CLASS/*.jpg; returns `root`.

    The second image of every class is grey, the third CMYK.
    """
    for split, count in (("train", train), ("val", held_out)):
        for k, name in enumerate(CLASSES):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                image = picture(100 * k + i + 50 * (split == "val"), 30 + 5 * i, 60 - 3 * i)
                image = image.convert({1: "L", 2: "CMYK"}.get(i, "RGB"))
                (place / f"{name}{i}.jpg").write_bytes(jpeg(image))
    return root


def dataset(root: pathlib.Path, file_format: str = "array_record", **counts: int) -> pathlib.Path:
    """Prepares the dataset `flowers`; returns the folder of tfds datasets that holds it."""
    source = folder(root / "source", **counts)
    assert (
        main(
            [
                "prepare",
                "imagefolder",
                f"--source={source}",
                "--name=flowers",
                f"--data_dir={root / 'data'}",
                f"--file_format={file_format}",
            ]
        )
        == 0
    )
    return root / "data"


def imagenet_samples(shared: pathlib.Path, root: pathlib.Path) -> dict[str, int]:
    """Links the real images into folders named like ImageNet's, a fifth of them for validation.

    Returns the labels by the images' file names.
    """
    samples = shared / "data/imagenet_samples"
    with (samples / "labels.csv").open() as file:
        labels = {row["file"]: int(row["label"]) for row in csv.DictReader(file)}
    for i, name in enumerate(labels):
        place = root / ("val" if i % 5 == 0 else "train") / name.split("_")[0]
        place.mkdir(parents=True)
        (place / name).symlink_to(samples / name)
    return labels
