"""Writes a tfds dataset from local files: CIFAR's official files, or a folder of images."""

import pathlib
import re
import shlex
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
from tqdm import tqdm

from sskd_jax.data import cifar, imagefolder, official, prepared
from sskd_jax.system.quiet import import_tensorflow, quiet
from sskd_jax.types import UserError

Examples = Iterable[tuple[Any, dict[str, Any]]]  # (key, example), as tfds's builders yield them
FORMATS = ("array_record", "tfrecord")
BATCH = 256  # of configs/imagenet.py


def prepare_cifar(
    name: str, source: pathlib.Path, data_dir: str | None, file_format: str | None
) -> str:
    """Writes cifar10 or cifar100 from the official files, unless it is there already.

    `file_format` is one of `FORMATS`; None: the usual one, or that of the dataset that is there.

    Returns:
      The line that tells the user what was written, and what to type next.

    Raises:
      UserError: the official files are damaged, or the dataset can't be written, or is there in
        another format.
    """
    builder = prepared.open_builder(name, data_dir)
    config = "configs/cifar.py" if name == "cifar100" else f"configs/cifar.py:dataset={name}"
    if prepared.is_prepared(builder, cifar.SPLITS):
        return already_there(builder, config, file_format)
    splits, class_names = official.read(name, source)
    with quiet():
        import_tensorflow()
        for feature, names in class_names.items():
            builder.info.features[feature].names = names
        examples = {split: official_examples(split, splits[split]) for split in splits}
        write(builder, examples, file_format or prepared.usual_format(builder))
    return written(builder, config)


def prepare_folder(
    name: str,
    source: pathlib.Path,
    data_dir: str | None,
    share: float | None,
    file_format: str | None,
    train_list: pathlib.Path | None = None,
) -> str:
    """Writes a dataset from a folder of images, unless it is there already.

    Args:
      name: of the dataset.
      source: the folder.
      data_dir: the folder of datasets; None: that of tfds.
      share: of every class that is held out if the folder has no train/ and val/; None: a tenth.
      file_format: one of `FORMATS`; None: the usual one, or that of the dataset that is there.
      train_list: the file that lists the training images; None: all images of the folder.

    Returns:
      The lines that tell the user what was written, and what to type next.

    Raises:
      UserError: the name or the folder is not in the expected form, or the dataset can't be
        written, or is there with other images or in another format.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(f"--name={name}: give small letters, digits and _, such as flowers")
    builder = known_builder(name, data_dir)
    is_there = builder and prepared.is_prepared(builder, ("train", "validation"))
    of_catalogue = builder and not is_there
    known_classes = builder.info.features["label"].names if of_catalogue else None
    folder = imagefolder.read(source, share, known_classes, train_list)
    if is_there:
        check_origin(builder, folder)
        return already_there(builder, folder_config(builder), file_format)
    with quiet(), warnings.catch_warnings(action="ignore"):  # PIL's, about odd files
        import_tensorflow()
        builder = builder or new_builder(name, data_dir, folder.classes)
        kept = {split: Counter() for split in folder.files}
        splits = {
            split: imagefolder.examples(split, files, kept[split])
            for split, files in folder.files.items()
        }
        if not of_catalogue:
            splits = {split: in_order(own, folder.files[split]) for split, own in splits.items()}
        file_format = file_format or prepared.usual_format(builder)
        write(builder, splits, file_format, folder.digest())
    return f"{written(builder, folder_config(builder))}\n{folder.counts(kept)}"


def folder_config(builder: Any) -> str:
    """The config that trains on a folder's dataset, with a batch no larger than the dataset."""
    name, images = builder.name, builder.info.splits["train"].num_examples
    dataset = [] if name == "imagenet2012" else [f"dataset={name}"]
    batch = [] if images >= BATCH else [f"batch={2 ** (images.bit_length() - 1)}"]
    return ":".join(filter(None, ["configs/imagenet.py", ",".join(dataset + batch)]))


def check_origin(builder: Any, folder: imagefolder.Folder) -> None:
    """Refuses a dataset that was made of other images, or with other images in its splits."""
    file = prepared.origin(builder)
    if file.exists() and file.read_text() != folder.digest():
        raise UserError(
            f"{builder.name} is there already, of other images or another --held_out "
            f"({counts(builder)} images): delete {builder.data_dir} to make it anew, or give "
            "another --name"
        )


def known_builder(name: str, data_dir: str | None) -> Any | None:
    """tfds's builder of a dataset that its catalogue or the folder of datasets has, or None.

    Raises:
      UserError: the dataset has other features than image, label and file_name.
    """
    try:
        builder = prepared.open_builder(name, data_dir)
    except prepared.Unknown:
        return None
    if {"image", "label", "file_name"} != set(builder.info.features):
        features = ", ".join(builder.info.features)
        raise UserError(f"tfds has a dataset {name} with {features}: give another --name")
    return builder


def new_builder(name: str, data_dir: str | None, classes: Sequence[str]) -> Any:
    """A tfds builder of a new dataset: JPEG images, each with a class and a file name."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=classes),
        "file_name": tfds.features.Text(),
    }
    return tfds.dataset_builders.AdhocBuilder(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={},
        data_dir=prepared.root(data_dir),
        disable_shuffling=True,
    )


def in_order(examples: Examples, files: Sequence[pathlib.Path]) -> Examples:
    """The examples with keys that rise over all of tfds's 128 bits.

    tfds sorts records that exceed its memory in a thousand parts of that range. Keys such as 0, 1,
    2 would all be in the first part, which it reads into memory as a whole.
    """
    for place, (_, example) in enumerate(examples):
        yield place * (2**128 // len(files)), example


def write(
    builder: Any, splits: Mapping[str, Examples], file_format: str, digest: str | None = None
) -> None:
    """Makes a tfds builder write the examples of `splits` instead of downloaded ones.

    Name, version and features are the builder's. tfds writes to a temporary folder and renames it.
    Before that, a folder's digest is written to its origin file, so that whatever is killed, no
    dataset lacks that file; without a dataset, the file has no meaning.

    Raises:
      UserError: it can't be written, or another process is writing it.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # its bars count shards; ours count images
    builder._split_generators = lambda dl_manager: splits
    folder, origin = epath.Path(builder.data_dir), prepared.origin(builder)
    try:
        # Without a folder for downloads, tfds leaves an empty one behind.
        with tempfile.TemporaryDirectory() as downloads, prepared.alone(builder):
            if folder.exists():
                raise UserError(
                    f"another process has just written {builder.name} to {prepared.home(builder)}: "
                    "type the same command again to see whether it is of the same images"
                )
            if digest:
                origin.write_text(digest)
            try:
                builder.download_and_prepare(file_format=file_format, download_dir=downloads)
            finally:
                if not folder.exists():
                    origin.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record's, if the disk is full
        reason = prepared.first_line(error)
        raise UserError(
            f"cannot write {builder.data_dir} ({reason}): mend that or make room, or give another "
            "--data_dir"
        ) from error


def official_examples(
    split: str, examples: official.Examples
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (key, example) as tfds's CIFAR builders do; `id` keeps the official order."""
    images = tqdm(examples.image, f"writing {split}", unit=" images", disable=None)
    for index, image in enumerate(images):
        labels = {feature: values[index] for feature, values in examples.labels.items()}
        yield index, {"id": f"{split}_{index:05d}", "image": image, **labels}


def already_there(builder: Any, config: str, file_format: str | None) -> str:
    """The line about a dataset that is there; a `UserError` if another format was asked for."""
    name, folder, form = builder.name, builder.data_dir, builder.info.file_format.value
    if file_format not in (None, form):
        raise UserError(
            f"{name} is there already, as {form}: delete {folder} to make it anew as {file_format}"
        )
    return f"{name} is there already, in {folder}; {how_to_train(builder, config)}"


def written(builder: Any, config: str) -> str:
    return (
        f"wrote {builder.name}, {counts(builder)} images, to {builder.data_dir}; "
        f"{how_to_train(builder, config)}"
    )


def counts(builder: Any) -> str:
    """The number of images in every split of a dataset, in words."""
    splits = builder.info.splits
    return " and ".join(f"{split.num_examples} {name}" for name, split in splits.items())


def how_to_train(builder: Any, config: str) -> str:
    data_dir = shlex.quote(prepared.home(builder))
    return (
        f"train with: python -m sskd_jax.main --config={config} --config.data.data_dir={data_dir}"
    )
