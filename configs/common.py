"""What the config files share: arguments, the training of a stage, and the keys of every run."""

from collections.abc import Mapping
from typing import Any

from sskd_jax.models import MODELS
from sskd_jax.rules import counts_epochs
from sskd_jax.types import UserError, choose, find

RUN = {
    "seed": 0,
    "seeds": 1,  # how many: seed, seed + 1, ..., each in its own folder
    "dtype": "auto",  # of the networks: bfloat16 on TPUs and newer GPUs, else float32
    "time_limit": 0.0,  # seconds after which the run saves and stops, to be resumed; 0: none
    "until": "",  # the stage with which the run ends, such as "teacher"; empty: the last one
    "save_seconds": 300.0,  # between two checkpoints within an epoch; every epoch ends with one
}

# For a network that was trained with another mean, standard deviation or size of images than those
# of the data, for which () and 0 stand.
OWN_PIXELS = {"mean": (), "std": (), "size": 0}

# The architectures that the reference trains with a lower learning rate.
LIGHT = ("MobileNetV2", "MobileNetV2s1", "ShuffleV1", "ShuffleV2")


def parse(arg: str | None, **defaults: str) -> dict[str, str]:
    """The defaults, updated by `arg`: "method=kd,sskd,teacher=vgg13" sets method to "kd,sskd".

    Raises:
      UserError: a part is neither key=value nor the continuation of a value, or its key is not
        among the defaults.
    """
    values, key = dict(defaults), ""
    for part in filter(None, (arg or "").split(",")):
        name, equals, value = part.partition("=")
        if key and not equals and name not in defaults:
            values[key] += f",{name}"
            continue
        key = name
        choose(defaults, key, "config argument")
        if not equals:
            default = defaults[key]
            raise UserError(f"config argument {key!r} has no value: write {key}={default}")
        values[key] = value
    return values


def whole(text: str, key: str) -> int:
    """The value of a config argument that must be a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise UserError(f"config argument {key}={text}: give a whole number above 0")
    return int(text)


def learning_rate(model: str) -> float:
    """The reference's learning rate for an architecture."""
    find(MODELS, model, "architecture")
    return 0.01 if model in LIGHT else 0.05


def sgd(
    *,
    epochs: int,
    milestones: tuple[float, ...],
    learning_rate: float,
    batch_size: int = 64,
    share: float = 1.0,
    warmup_epochs: float = 0.0,
    cooldown_epochs: float = 0.0,
    cosine: bool = False,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    nesterov: bool = False,
) -> dict[str, object]:
    """The training of a stage: SGD whose learning rate is divided by 10 at every milestone.

    Milestones are shares of the epochs, so that they suit any number of epochs.

    `share` is the share of every class's training images that the stage sees. Over the first
    `warmup_epochs` the rate rises from about 0, and over the last `cooldown_epochs` it falls
    towards 0; with `cosine` it falls from epoch to epoch along half a cosine.
    """
    return {
        "checkpoint": "",
        "start_from": "",
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_epochs": warmup_epochs,
        "milestones": milestones,
        "decay": 0.1,
        "cooldown_epochs": cooldown_epochs,
        "cosine": cosine,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "images": {
            "share": share,  # of every class's images
            "noise": 0.0,  # share of the labels that are replaced by those of other classes
            "imbalance": 1.0,  # number of images of the first class over that of the last one
        },
    }


def scale_counted(config: Mapping[str, Any], before: int, epochs: Any) -> None:
    """Scales what methods count in the student's epochs, such as DKD's `warmup_epochs`.

    The student had `before` epochs and has `epochs`, which may be a reference to a field of the
    config; then the numbers follow it. They are rounded up. The epochs of a task stay as they are.
    """
    for setting in config["settings"].values() if "settings" in config else [config]:
        numbers = setting["method"]
        for name, number in list(numbers.items()):
            if counts_epochs(name, number):
                numbers[name] = -(-number * epochs // before)
