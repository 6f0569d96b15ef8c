r"""CIFAR as a stream of tasks: CoCa, DER++ and the methods to compare, with one small buffer.

    python -m sskd_jax.main --config=configs/continual.py --workdir=runs/continual
    python -m sskd_jax.main --config=configs/continual.py:dataset=cifar100,buffer=500,method=derpp
    python -m sskd_jax.main --config=configs/continual.py:dataset=cifar100,task_classes=5
    python -m sskd_jax.main --config=configs/continual.py:dataset=tiny_imagenet,method=derpp
    python -m experiments.continual runs/continual

The numbers are those of CoCa's released code (batches of 32, plain SGD); all methods have the
learning rates and epochs of CoCa and DER++. Expect (DER++, as later papers quote it, Seq-CIFAR-10,
buffer 200): 64.88 top-1 among all classes, 91.92 among those of an image's task. No table of CoCa
was found. Nothing of this has been run here at full length.
"""

import math

from ml_collections import ConfigDict

from configs import cifar, common, imagenet, named
from sskd_jax.types import choose

# The names to compare: each is a method of the registry with other numbers.
COMPARED = {
    "finetune": ("der", {"keep_logits": False, "replay_labels": False}),
    "er": ("der", {"keep_logits": False}),
    "der": ("der", {"replay_labels": False}),
    "derpp": ("der", {}),
    "coca": ("coca", {}),
    "coca_free": ("coca", {"boundaries": False}),
}
CLASSES = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}
TASK_CLASSES = {"cifar10": "2", "cifar100": "10", "tiny_imagenet": "20"}
# The weights (distil, replay), by the size of the buffer; others have those of the nearest.
CIFAR_WEIGHTS = {200: (0.1, 0.5), 500: (0.2, 0.5), 5120: (0.1, 1.0)}
TINY_WEIGHTS = {200: (0.1, 1.0), 500: (0.1, 0.5), 5120: (0.1, 0.5)}
# The weight of `distil` if no labels are replayed, where it is another one, for any buffer.
DISTIL_ALONE = {"cifar10": 0.3}
COLOURS = {  # mean and std, if they are not those of the other configs
    "cifar100": {"mean": (0.5071, 0.4866, 0.4409), "std": (0.2009, 0.1984, 0.2023)},
    "tiny_imagenet": {"mean": (0.4802, 0.4480, 0.3975), "std": (0.2770, 0.2691, 0.2821)},
}
# For the dataset that `prepare` makes of Tiny-ImageNet: whole images, shifted by up to 4 pixels.
TINY = {"size": 64, "resize": 64, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "pad": 4}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: method (or several), student, dataset, task_classes, buffer, epochs (per task)."""
    args = common.parse(
        arg,
        method="finetune,er,derpp,coca",
        student="ResNet18",
        dataset="cifar10",
        task_classes="",
        buffer="200",
        epochs="50",
    )
    dataset = args["dataset"]
    classes = choose(CLASSES, dataset, "dataset")
    stream = {
        "task_classes": common.whole(args["task_classes"] or TASK_CLASSES[dataset], "task_classes"),
        "task_epochs": common.whole(args["epochs"], "epochs"),
        "buffer_size": common.whole(args["buffer"], "buffer"),
    }
    names = args["method"].split(",")
    known = TINY_WEIGHTS if dataset == "tiny_imagenet" else CIFAR_WEIGHTS
    weights = known[min(known, key=lambda size: abs(math.log(size / stream["buffer_size"])))]
    alone = DISTIL_ALONE.get(dataset, weights[0])
    settings = {name: compared(name, stream, weights, alone) for name in names}
    for setting in settings.values():
        if "stretched" in setting.method:
            setting.method.stretched = dataset == "tiny_imagenet"
    config = ConfigDict({"methods": tuple(names), "settings": settings})
    config.update(common.RUN)
    source = imagenet if dataset == "tiny_imagenet" else cifar
    config.data = source.data(dataset)
    config.data.update(COLOURS.get(dataset, {}) | (TINY if source is imagenet else {}))
    tasks = -(-classes // stream["task_classes"])
    schedule = common.sgd(
        epochs=tasks * stream["task_epochs"],
        milestones=(),
        learning_rate=0.1 if dataset == "tiny_imagenet" else 0.03,
        batch_size=32,
        momentum=0.0,
        weight_decay=0.0,
    )
    config.student = {"model": args["student"], **common.OWN_PIXELS, **schedule}
    return config


def compared(
    name: str, stream: dict[str, int], weights: tuple[float, float], alone: float
) -> ConfigDict:
    """A method with its numbers and its weights; `weights` are those of (distil, replay).

    `alone` is the weight of `distil` if no labels are replayed.
    """
    base, numbers = choose(COMPARED, name, "method")
    config = named.method(base)
    config.method.update(stream | numbers)
    keeps = config.method.get("keep_logits", True)
    replays = config.method.get("replay_labels", True)
    distil, replay = weights
    config.weights.update(distil=distil if replays else alone, replay=replay)
    if not keeps:
        del config.weights.distil
    if not replays:
        del config.weights.replay
    return config
