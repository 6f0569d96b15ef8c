"""Image files in a folder per class, as is usual with PyTorch, and their examples for tfds.

They are SOURCE/train/CLASS/IMAGE and SOURCE/val/CLASS/IMAGE, or SOURCE/CLASS/IMAGE alone, of which
a share is held out. A list of files may choose the training images, as that of ImageNet-LT does.
"""

import hashlib
import io
import itertools
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from sskd_jax.data.image_file import Unreadable, jpeg
from sskd_jax.types import UserError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
# Possible names of the folder next to train; the first that is there is used.
HELD_OUT = ("val", "validation", "valid", "test")

Files = list[pathlib.Path]


class Folder(NamedTuple):
    """The image files of a dataset.

    Attributes:
      files: by split, "train" and "validation", sorted by class and name.
      classes: their names; a label is an index into this list.
    """

    files: dict[str, Files]
    classes: list[str]

    def digest(self) -> str:
        """SHA-256 over class, name and size of every file, by split."""
        lines = [
            # A link without a target has the size of the link.
            f"{split}/{path.parent.name}/{path.name} "
            f"{path.stat(follow_symlinks=path.exists()).st_size}"
            for split, paths in self.files.items()
            for path in paths
        ]
        return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()

    def counts(self, kept: Mapping[str, Counter[str]]) -> str:
        """How many images of each class every split has, in words, and the folder next to train/.

        `kept` has by split the number of images by class, as `examples` counts them.
        """
        texts = []
        for split, paths in self.files.items():
            found = [kept[split][name] for name in self.classes]
            least, most, place = min(found), max(found), paths[0].parent.parent.name
            told = f"{split} ({place}/)" if place in HELD_OUT else split
            texts.append(f"{told}: {least} to {most}" if least < most else f"{told}: {most}")
        return f"images per class, of {len(self.classes)} classes: {', '.join(texts)}"


def read(
    source: pathlib.Path,
    share: float | None,
    known: Sequence[str] | None = None,
    train_list: pathlib.Path | None = None,
) -> Folder:
    """Lists the image files below a folder.

    Args:
      source: with train/ and val/, or with class folders alone.
      share: of every class, in (0, 1), that is held out if there is no train/ and val/; None: .1.
      known: the names of the dataset's classes, if given; None: those of the training images.
      train_list: the file that lists the training images; None: all images.

    Raises:
      UserError: the folder lacks a part or has an unknown class, or the list is not in the expected
        form or names images that do not exist; or a share is given and has no effect.
    """
    try:
        os.listdir(source)  # not `is_dir`, which hides why the system refuses, as of Python 3.14
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"--source={shown(source)} is no folder: give one with train/CLASS/IMAGE and "
            "val/CLASS/IMAGE"
        ) from error
    if share is not None and (train_list or (source / "train").is_dir()):
        raise UserError(
            f"--held_out={share} is of a folder with CLASS/IMAGE alone: leave it out, or give "
            f"--source={shown(source / 'train')}"
        )
    if train_list:
        files = {"train": listed(train_list, source), "validation": images(held_out_folder(source))}
    elif (source / "train").is_dir():
        files = {"train": images(source / "train"), "validation": images(held_out_folder(source))}
    else:
        files = hold_out(images(source), 0.1 if share is None else share)
    if both := sorted(set(files["train"]) & set(files["validation"])):
        raise UserError(
            f"--train_list={shown(train_list)} names {shown(both[0])}, which is there to test on: "
            "give a list of training images"
        )
    classes = list(known or sorted({path.parent.name for path in files["train"]}))
    if len(classes) == 1:
        raise UserError(
            f"{shown(files['train'][0].parent)} is the only class, and there is nothing to tell "
            "apart: give --source a folder with a folder for each of several classes"
        )
    folders = sorted({path.parent for paths in files.values() for path in paths})
    for folder in folders:
        check_name(folder)
    for folder in folders:
        if folder.name not in classes:
            raise UserError(
                f"{shown(folder)} is none of the {len(classes)} classes "
                f"({', '.join(classes[:3])}, ...): rename or remove it"
            )
    return Folder(files, classes)


def check_name(folder: pathlib.Path) -> None:
    """Raises a `UserError` if tfds can't store a class's name in a file with one name per line."""
    text = os.fsencode(folder.name).decode(errors="replace")
    if text != folder.name or [text.strip()] != text.splitlines():
        raise UserError(
            f"{shown(folder)}, a class, is not named in UTF-8, in one line and without spaces "
            "around: rename it"
        )


def held_out_folder(source: pathlib.Path) -> pathlib.Path:
    """The folder of held-out images next to train/, under any of its usual names.

    Further ones are reported on stderr.
    """
    found = [source / name for name in HELD_OUT if (source / name).is_dir()]
    if not found:
        raise UserError(
            f"{shown(source)} has train/, but no val/: add it, or give {shown(source / 'train')}, "
            "of which a part is held out"
        )
    first, *others = found
    for other in others:
        print(f"left out  {shown(other)}: {shown(first)} is there to test on", file=sys.stderr)
    return first


def images(folder: pathlib.Path) -> Files:
    """The image files FOLDER/CLASS/IMAGE, sorted; a `UserError` if there are none.

    Images in other places, and classes without images, are reported on stderr.
    """
    found = sorted(
        path for path in folder.glob("*/*") if named_image(path) and not is_hidden(path, folder)
    )
    if not found:
        raise UserError(f"{shown(folder)} has no CLASS/IMAGE: {where_images_lie(folder)}")
    for line in passed_by(folder, found):
        print(f"left out  {line}", file=sys.stderr)
    return found


def where_images_lie(folder: pathlib.Path) -> str:
    """What to do about a folder without CLASS/IMAGE, in words."""
    if any(map(named_image, folder.iterdir())):
        return "its images must lie in a folder per class"
    deeper = next(filter(named_image, folder.rglob("*")), None)
    if not deeper:
        return f"images ({', '.join(SUFFIXES)}) must lie in a folder per class"
    split = deeper.parents[1]
    source = split.parent if split.name in ("train", *HELD_OUT) else split
    return f"there is {shown(deeper)}: give --source={shown(source)}"


def is_hidden(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a name between `folder` and a file begins with a dot, as those of other programs."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def named_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def passed_by(folder: pathlib.Path, found: Files) -> Iterator[str]:
    """Yields a line about each place with images that are not in `found`, and each empty class."""
    for pattern, where in (("*", "in no class"), ("*/*/*", "deeper than CLASS/IMAGE")):
        places = (path.parent for path in folder.glob(pattern) if named_image(path))
        for place, count in sorted(Counter(places).items()):
            yield f"{shown(place)}: images that lie {where} ({count})"
    if hidden := sum(named_image(path) and is_hidden(path, folder) for path in folder.glob("*/*")):
        yield f"{shown(folder)}: images with a name or folder that begins with a dot ({hidden})"
    classes = set(map(class_folder, found))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path not in classes and not is_hidden(path, folder):
            yield f"{shown(path)}: a class without images"


def listed(file: pathlib.Path, source: pathlib.Path) -> Files:
    """The images in a list, sorted; each line is a path below `source`, a space and a label.

    Raises:
      UserError: a line has another form, its file does not exist, or its label is not the index of
        its class among all classes sorted by name.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"--train_list={shown(file)} cannot be read: {error}") from error
    found: dict[pathlib.Path, str] = {}
    for number, line in enumerate(filter(str.strip, lines), 1):
        path, _, label = line.strip().rpartition(" ")
        if not label.isdecimal() or path.count("/") < 2:
            raise UserError(
                f"{shown(file)}, line {number}, is {shown(line)}: give lines such as "
                "train/n01440764/n01440764_190.JPEG 0"
            )
        found[source / path] = label
    missing = next((path for path in found if not path.is_file()), None)
    if not found or missing:
        raise UserError(f"{shown(file)} names {shown(missing or 'no image')}, which is not there")
    classes = sorted({path.parent.name for path in found})
    for path, label in found.items():
        if int(label) >= len(classes) or classes[int(label)] != path.parent.name:
            raise UserError(
                f"{shown(file)} gives {shown(path)} the label {label}, which is not the place of "
                "its class among all by name: sort the classes of the list"
            )
    return sorted(found)


def hold_out(files: Files, share: float) -> dict[str, Files]:
    """Splits image files into "train" and "validation", which is a share of every class.

    Of every class, at least one image is held out and one kept; otherwise it is a `UserError`. A
    checksum of their names decides which are held out, so that when images are added, nearly all of
    the others stay on their side.
    """
    if not 0 < share < 1:
        raise UserError(f"--held_out={share}: give a number above 0 and below 1, such as 0.1")
    parts = {"train": [], "validation": []}
    for folder, group in itertools.groupby(files, class_folder):
        members = list(group)
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise UserError(
                f"{shown(folder)} has {len(members)} images: too few to hold {share} of them out"
            )
        held_out = set(sorted(members, key=name_checksum)[:count])
        for path in members:
            parts["validation" if path in held_out else "train"].append(path)
    return parts


def name_checksum(path: pathlib.Path) -> bytes:
    return hashlib.sha256(os.fsencode(path.name)).digest()


def class_folder(path: pathlib.Path) -> pathlib.Path:
    return path.parent


def examples(
    split: str, files: Sequence[pathlib.Path], kept: Counter[str]
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields (key, example) of every image file, as tfds's builders do.

    A file that is not an image, or is damaged, is reported on stderr and left out. So is a class
    that loses all its images by that. `kept` counts the others by class.

    Raises:
      UserError: all files are left out.
    """
    for path in tqdm(files, f"writing {split}", unit=" images", disable=None):
        try:
            content = readable(path)
        except Unreadable as error:
            tqdm.write(f"damaged  {shown(path)} is left out ({error})", file=sys.stderr)
            continue
        label, name = path.parent.name, os.fsencode(path.name)
        kept[label] += 1
        key = os.fsencode(f"{label}/") + name  # as bytes, since it may not be UTF-8
        text = name.decode(errors="backslashreplace")
        yield key, {"image": io.BytesIO(content), "label": label, "file_name": text}
    if not kept:
        raise UserError(
            f"none of the {len(files)} images of {split}, such as {shown(files[0])}, can be read: "
            "give sound ones"
        )
    for place in dict.fromkeys(map(class_folder, files)):
        if not kept[place.name]:
            tqdm.write(f"left out  {shown(place)}: a class without images", file=sys.stderr)


def readable(path: pathlib.Path) -> bytes:
    """The result of `jpeg` for a file; any error that it raises becomes `Unreadable`."""
    try:
        return jpeg(path)
    except Unreadable:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or "no image that can be read"
        raise Unreadable(reason) from error


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as text in one line: invalid UTF-8 and line breaks are escaped, as \xff and \n."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
