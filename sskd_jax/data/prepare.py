"""Writes a tfds dataset from files that are there: CIFAR's official ones, or a folder of images.

  python -m sskd_jax.data.prepare cifar100 --source=cifar-100-python --data_dir=DIR
  python -m sskd_jax.data.prepare imagefolder --source=FOLDER --name=flowers --data_dir=DIR
  python -m sskd_jax.data.prepare imagefolder --source=ILSVRC2012 --name=imagenet2012 --data_dir=DIR

A dataset that tfds's catalogue has becomes what tfds itself prepares where it can download. FOLDER holds
train/CLASS/IMAGE and val/CLASS/IMAGE, or CLASS/IMAGE alone; ImageNet's classes are named n01440764 and so on.
"""

import argparse
import pathlib
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from tqdm import tqdm

from sskd_jax.data import cifar, imagefolder, official, prepared
from sskd_jax.system.quiet import import_tensorflow, quiet
from sskd_jax.types import UserError

Rows = Iterable[tuple[Any, dict[str, Any]]]  # keys and examples, as tfds's builders yield them
FORMATS = ("array_record", "tfrecord")


def prepare_cifar(name: str, source: pathlib.Path, data_dir: str | None) -> str:
    """Writes the dataset called `name` unless it is there; returns the line that tells the user what to do next."""
    builder = prepared.open_builder(name, data_dir)
    config = "configs/cifar.py" if name == "cifar100" else f"configs/cifar.py:dataset={name}"
    if prepared.is_prepared(builder, cifar.SPLITS):
        return there(builder, config)
    splits, class_names = official.read(name, source)
    with quiet():
        import_tensorflow()
        for feature, names in class_names.items():
            builder.info.features[feature].names = names
        write(builder, {split: official_rows(split, splits[split]) for split in splits})
    return wrote(builder, config)


def prepare_folder(
    name: str, source: pathlib.Path, data_dir: str | None, share: float, file_format: str
) -> str:
    """The same for a folder of images."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(f"--name={name}: give small letters, digits and _, such as flowers")
    config = f"configs/imagenet.py:dataset={name}".removesuffix(":dataset=imagenet2012")
    builder = catalogued(name, data_dir)
    if builder and prepared.is_prepared(builder, ("train", "validation")):
        return there(builder, config)
    folder = imagefolder.read(source, share, builder and builder.info.features["label"].names)
    with quiet():
        import_tensorflow()
        builder = builder or own_builder(name, data_dir, folder.classes)
        write(
            builder,
            {split: imagefolder.rows(split, files) for split, files in folder.files.items()},
            file_format,
        )
    return wrote(builder, config)


def catalogued(name: str, data_dir: str | None) -> Any | None:
    """tfds's builder of a dataset with images and labels, if its catalogue or the folder has it."""
    try:
        builder = prepared.open_builder(name, data_dir)
    except prepared.Unknown:
        return None
    if {"image", "label", "file_name"} != set(builder.info.features):
        raise UserError(
            f"tfds has a dataset {name} with {', '.join(builder.info.features)}: give another --name"
        )
    return builder


def own_builder(name: str, data_dir: str | None, classes: Sequence[str]) -> Any:
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=classes),
            "file_name": tfds.features.Text(),
        }
    )
    return tfds.dataset_builders.AdhocBuilder(
        name=name,
        version="1.0.0",
        features=features,
        split_datasets={},
        data_dir=prepared.root(data_dir),
        disable_shuffling=True,
    )


def write(builder: Any, rows: Mapping[str, Rows], file_format: str = FORMATS[0]) -> None:
    """Has a builder write our rows, by split, in place of what it would download.

    So name, version and features are the builder's; tfds writes to a folder aside and renames it.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # its bars come by the shard; ours counts images
    builder._split_generators = lambda dl_manager: rows
    try:
        with (
            tempfile.TemporaryDirectory() as aside
        ):  # else tfds leaves an empty folder for downloads
            builder.download_and_prepare(file_format=file_format, download_dir=aside)
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record's, where the disk is full
        reason = prepared.first_line(error)
        raise UserError(
            f"cannot write {builder.data_dir} ({reason}): make room, or give another --data_dir"
        ) from error


def official_rows(split: str, examples: official.Examples) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keys and examples as the catalogue's builder yields them; `id` keeps the official order."""
    for index, image in enumerate(
        tqdm(examples.image, f"writing {split}", unit=" images", disable=None)
    ):
        labels = {feature: values[index] for feature, values in examples.labels.items()}
        yield index, {"id": f"{split}_{index:05d}", "image": image, **labels}


def there(builder: Any, config: str) -> str:
    return (
        f"{builder.name} is there already, in {builder.data_dir}; {how_to_train(builder, config)}"
    )


def wrote(builder: Any, config: str) -> str:
    counts = " and ".join(
        f"{split.num_examples} {name}" for name, split in builder.info.splits.items()
    )
    return f"wrote {builder.name}, {counts} images, to {builder.data_dir}; {how_to_train(builder, config)}"


def how_to_train(builder: Any, config: str) -> str:
    data_dir = shlex.quote(prepared.home(builder))
    return (
        f"train with: python -m sskd_jax.main --config={config} --config.data.data_dir={data_dir}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 after a mistake, whose one line is on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m sskd_jax.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=(*sorted(official.LAYOUTS), "imagefolder"))
    parser.add_argument(
        "--source", required=True, help="the official folder or its .tar.gz; the folder of images"
    )
    parser.add_argument(
        "--data_dir",
        help="where tfds datasets live (default: TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--name", default="imagefolder", help="of the dataset that a folder becomes"
    )
    parser.add_argument(
        "--held_out", type=float, default=0.1, help="share to test on, of a folder without val/"
    )
    parser.add_argument(
        "--file_format",
        choices=FORMATS,
        default=FORMATS[0],
        help="of a folder's dataset; tfrecord where it will lie in a bucket",
    )
    args = parser.parse_args(argv)
    source = pathlib.Path(args.source).expanduser()
    logging.set_verbosity(logging.ERROR)
    try:
        if args.kind in official.LAYOUTS:
            print(prepare_cifar(args.kind, source, args.data_dir))
        else:
            print(prepare_folder(args.name, source, args.data_dir, args.held_out, args.file_format))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
