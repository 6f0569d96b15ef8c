r"""Writes a tfds dataset from local files: CIFAR's official files, or a folder of images.

  python -m sskd_jax prepare cifar100 --source=cifar-100-python --data_dir=DIR
  python -m sskd_jax prepare imagefolder --source=FOLDER --name=flowers --data_dir=DIR
  python -m sskd_jax prepare imagefolder --source=ILSVRC2012 --name=imagenet2012 --data_dir=DIR
  python -m sskd_jax prepare imagefolder --source=ILSVRC2012 --name=imagenet_lt \
      --train_list=ImageNet_LT_train.txt --data_dir=DIR

CIFAR becomes the same dataset as if tfds had downloaded and prepared it; another one in tfds's
catalogue has its name, features and images, in another order. FOLDER holds train/CLASS/IMAGE and
val/CLASS/IMAGE, or CLASS/IMAGE alone; ImageNet's classes have names such as n01440764.
"""

import argparse
from collections.abc import Sequence

from absl import logging

from sskd_jax.commands import make_parser
from sskd_jax.data import official
from sskd_jax.data.prepare import FORMATS, prepare_cifar, prepare_folder
from sskd_jax.system import early
from sskd_jax.system.console import console
from sskd_jax.system.interruption import Interruption
from sskd_jax.system.paths import on_disk
from sskd_jax.types import Stopped, UserError


def run(argv: Sequence[str]) -> None:
    """Prepares the dataset that a command line names, and prints a line."""
    parser = make_parser("prepare", __doc__)
    parser.add_argument("kind", choices=(*sorted(official.LAYOUTS), "imagefolder"))
    parser.add_argument(
        "--source",
        type=on_disk,
        required=True,
        help="the official folder or its .tar.gz; the folder of images",
    )
    parser.add_argument(
        "--data_dir",
        help="where tfds datasets live (default: TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--name", help="of the dataset that a folder becomes (default: imagefolder)"
    )
    parser.add_argument(
        "--held_out",
        type=float,
        help="share to test on, of a folder of classes alone (default: 0.1)",
    )
    parser.add_argument(
        "--train_list",
        type=on_disk,
        help="a file that names the training images, such as ImageNet_LT_train.txt",
    )
    parser.add_argument(
        "--file_format",
        choices=FORMATS,
        help="default: array_record on a disk, tfrecord in a bucket",
    )
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)
    try:
        with Interruption() as interruption:
            console.print(prepared(args))
    except Stopped as stop:
        raise Stopped(f"{interruption.reason}: nothing was written; {early.ANEW}") from stop


def prepared(args: argparse.Namespace) -> str:
    """Writes the dataset; returns the text that says what was written, and what to type next."""
    if args.kind in official.LAYOUTS:
        for flag in ("name", "held_out", "train_list"):
            if getattr(args, flag) is not None:
                raise UserError(f"--{flag} is of an imagefolder: leave it out with {args.kind}")
        return prepare_cifar(args.kind, args.source, args.data_dir, args.file_format)
    name = "imagefolder" if args.name is None else args.name
    return prepare_folder(
        name, args.source, args.data_dir, args.held_out, args.file_format, args.train_list
    )
