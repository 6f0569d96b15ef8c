"""What the config files share: arguments, one stage's training, and what a run always has."""

from sskd_jax.models import MODELS
from sskd_jax.types import UserError, choose, find

RUN = {
    "seed": 0,
    "seeds": 1,  # how many: seed, seed + 1, ..., each in a folder of its own
    "dtype": "auto",  # of the networks: bfloat16 on GPUs and TPUs, float32 on the CPU
    "time_limit": 0.0,  # seconds until the run saves and ends, to go on when called again; 0: none
    "until": "",  # the stage that the run ends with, such as "teacher"; empty: the last one
    "save_seconds": 300.0,  # between two checkpoints within an epoch; every epoch ends with one
}

# Of a teacher that was trained with another mean, deviation or size of images than the student; ()
# and 0 are the data's.
OWN_PIXELS = {"mean": (), "std": (), "size": 0}

# What the reference trains at a lower rate.
LIGHT = ("MobileNetV2", "MobileNetV2s1", "ShuffleV1", "ShuffleV2")


def parse(arg: str | None, **defaults: str) -> dict[str, str]:
    """ "method=kd,sskd,teacher=vgg13" -> the defaults with these values, of which "kd,sskd" is one.

    Raises:
      UserError: a part is neither key=value nor goes on with a value, or its key is not among the
        defaults.
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
    """The whole number above 0 that a config argument says."""
    if not text.isdecimal() or not int(text):
        raise UserError(f"config argument {key}={text}: give a whole number above 0")
    return int(text)


def learning_rate(model: str) -> float:
    """The reference's, by architecture."""
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
    """One stage's training: SGD whose rate is a tenth from every milestone on.

    Milestones are shares of the epochs, so that they hold for fewer epochs, too.

    `share` is that of the training images, of every class alike, that the stage sees;
    over the first `warmup_epochs` the rate rises from nothing, and over the last
    `cooldown_epochs` it falls to nothing; with `cosine` it falls from epoch to epoch along half a
    cosine.
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
            "share": share,  # of every class
            "noise": 0.0,  # share of the labels that become those of other classes
            "imbalance": 1.0,  # images of the first class over those of the last one
        },
    }
