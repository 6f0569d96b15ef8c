"""Writes a tfds dataset from the official CIFAR files, for machines that cannot download.

  python -m sskd_jax.data.prepare cifar100 --source=cifar-100-python --data_dir=DIR

The result is what tfds itself prepares where it can download, for `tfds.data_source("cifar100", data_dir=DIR)`.
"""
import argparse
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from tqdm import tqdm

from sskd_jax.data import cifar, official
from sskd_jax.quiet import import_tensorflow, quiet
from sskd_jax.types import UserError


def prepare(name: str, source: str, data_dir: str | None) -> str:
    """Writes the dataset called `name` unless it is there; returns the line that tells the user what to do next."""
    builder = cifar.open_builder(name, data_dir)
    config = "configs/cifar.py" if name == "cifar100" else f"configs/cifar.py:dataset={name}"
    data_dir = shlex.quote(str(builder.data_dir_root))
    train = f"python -m sskd_jax.main --config={config} --config.data.data_dir={data_dir}"
    if cifar.is_prepared(builder):
        return f"{name} is there already, in {builder.data_dir}; train with: {train}"
    splits, class_names = official.read(name, pathlib.Path(source).expanduser())
    with quiet():
        import_tensorflow()
        write(builder, splits, class_names)
    counts = " and ".join(f"{len(examples.image)} {split}" for split, examples in splits.items())
    return f"wrote {name}, {counts} images, to {builder.data_dir}; train with: {train}"


def write(builder: Any, splits: Mapping[str, official.Examples], class_names: Mapping[str, Sequence[str]]) -> None:
    """Has the catalogue's own builder write our examples in place of those it would download.

    So name, version and features cannot differ from the catalogue's; tfds writes to a folder aside and renames it.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # its bars come by the shard; ours counts images
    for feature, names in class_names.items():
        builder.info.features[feature].names = names
    builder._split_generators = lambda dl_manager: {split: _rows(split, splits[split]) for split in splits}
    try:
        with tempfile.TemporaryDirectory() as aside:  # else tfds leaves an empty folder for downloads
            builder.download_and_prepare(file_format="array_record", download_dir=aside)
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record's, where the disk is full
        reason = cifar.first_line(error)
        raise UserError(f"cannot write {builder.data_dir} ({reason}): make room, or give another --data_dir") from error


def _rows(split: str, examples: official.Examples) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keys and examples as the catalogue's builder yields them; `id` keeps the official order."""
    for index, image in enumerate(tqdm(examples.image, f"writing {split}", unit=" images", disable=None)):
        labels = {feature: values[index] for feature, values in examples.labels.items()}
        yield index, {"id": f"{split}_{index:05d}", "image": image, **labels}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 after a mistake, whose one line is on stderr."""
    parser = argparse.ArgumentParser(prog="python -m sskd_jax.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(official.LAYOUTS))
    parser.add_argument("--source", required=True, help="the official folder, or its .tar.gz")
    parser.add_argument("--data_dir", help="where tfds datasets live (default: TFDS_DATA_DIR or ~/tensorflow_datasets)")
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)
    try:
        print(prepare(args.name, args.source, args.data_dir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
