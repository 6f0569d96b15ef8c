"""Measures a trained network from a workdir, or from a .pth or .safetensors file.

  python -m sskd_jax evaluate runs/sskd
  python -m sskd_jax evaluate runs/table --stage=teacher --split=train
  python -m sskd_jax evaluate resnet20.pth --config=configs/cifar.py --data_dir=DIR

The images are those of the run, or those of the data section of --config.
"""

from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from sskd_jax.commands import add_network, make_parser
from sskd_jax.data import sources
from sskd_jax.engine.devices import all_devices, keep_programs, replicated
from sskd_jax.engine.evaluate import evaluation
from sskd_jax.engine.task import Frozen, Task
from sskd_jax.exchange.classifier import Classifier, is_described, load
from sskd_jax.methods.common import supervised
from sskd_jax.models.build import adapted
from sskd_jax.sections import dataset_of
from sskd_jax.settings import section
from sskd_jax.system.console import console, show
from sskd_jax.system.hints import reason
from sskd_jax.system.installed import read_config
from sskd_jax.system.paths import locate
from sskd_jax.types import UserError
from sskd_jax.workdir.files import CONFIG, read_json
from sskd_jax.workdir.seeds import check_run

BATCH_SIZE = 256  # or slightly more, so that all devices get the same number of images
SPLITS = ("test", "train")


def evaluate(
    classifier: Classifier,
    dataset: sources.Dataset,
    split: str,
    devices: Sequence[jax.Device],
) -> dict[str, float]:
    """top1, top5 (in [0, 1]) and loss of a network over the "test" or the "train" split.

    Images are resized to the size on which the network was trained. The result does not depend on
    the number of devices, except for rounding.

    Raises:
      UserError: the network has another number of classes than the dataset.
    """
    classes = classifier.record["num_classes"]
    if classes != dataset.num_classes:
        raise UserError(
            f"the network tells {classes} classes apart, and the dataset has "
            f"{dataset.num_classes}: give --data=NAME or --config=FILE of one with its classes"
        )
    images = getattr(dataset, split)
    size, *_ = classifier.record.get("image", images.shape)
    optics = classifier.optics
    task = Task(
        stage=supervised("network"),
        modules={"network": adapted(classifier.module, optics, {"size": size})},
        weights={},
        optimizer=None,
        optics=optics,
        num_classes=classes,
        steps_per_epoch=1,
        scores=("top1", "top5", "loss"),
    )
    frozen = Frozen(jax.random.PRNGKey(0), **images.resident(), nets={})
    variables = {"network": classifier.variables}
    batch_size = -(-BATCH_SIZE // len(devices)) * len(devices)
    run = evaluation(task, devices, batch_size)
    return run(replicated(variables, devices), replicated(frozen, devices), images)


def data_section(source: str, config: str | None) -> ConfigDict:
    """The data section of a config file (PATH or PATH:ARGUMENTS), or else of a workdir's run."""
    if config:
        try:
            return section(read_config(config), "data")
        except OSError as error:
            raise UserError(f"{config} cannot be read: {error.strerror}") from error
        except Exception as error:  # a config file may raise anything
            raise UserError(reason(error, [])) from error
    check_run(locate(source))
    file = locate(source) / CONFIG
    if not file.exists():
        raise UserError(
            f"{source} is no workdir: give --config=configs/cifar.py, or another config whose "
            "data section says which images to look at, and how"
        )
    return ConfigDict(read_json(file)["data"])


def tell_other_names(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Prints a line if a class has other names in the network's and in the dataset's list."""
    for number, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        if own != other:
            console.print(
                f"classes  number {number} is {own!r} to the network and {other!r} in the data: "
                "the figures take both for the same"
            )
            return


def chosen_devices(count: int | None) -> list[jax.Device]:
    """The first `count` devices, or all of them."""
    devices = all_devices()
    if count is not None and not 1 <= count <= len(devices):
        raise UserError(f"--devices={count}: there are {len(devices)}")
    return devices[:count]


def run(argv: Sequence[str]) -> None:
    """Measures the network that a command line names, and prints a line."""
    parser = make_parser("evaluate", __doc__)
    add_network(parser)
    parser.add_argument("--config", help="whose data section is taken in place of the run's")
    parser.add_argument("--data", help="the name of another dataset")
    parser.add_argument("--data_dir", help="the folder of datasets")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    parser.add_argument("--devices", type=int, help="how many to use; default: all")
    args = parser.parse_args(argv)
    keep_programs()
    data = data_section(args.source, args.config)
    # A file that does not say how its network expects images gets the data section's numbers.
    known = is_described(locate(args.source))
    numbers = {} if known else {"mean": data.mean, "std": data.std}
    classifier = load(args.source, stage=args.stage, network=args.network, **numbers)
    images = dataset_of(data, args.data, args.data_dir)
    tell_other_names(classifier.record.get("classes", ()), images.classes)
    devices = chosen_devices(args.devices)
    scores = evaluate(classifier, images, args.split, devices)
    record, size = classifier.record, getattr(images, args.split).size
    console.print(f"views    mean {tuple(record['mean'])}, std {tuple(record['std'])}")
    figures = "  ".join(f"{name} {show(name, value)}" for name, value in scores.items())
    console.print(
        f"{classifier.model}  {args.data or data.name}, {size} {args.split} images  {figures}  "
        f"({len(devices)} x {devices[0].device_kind})"
    )
