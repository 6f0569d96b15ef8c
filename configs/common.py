"""What the config files share: arguments, the paper's pairs and numbers, the reference's learning rates and weights."""

from collections.abc import Callable

from ml_collections import ConfigDict

from sskd_jax.models import MODELS
from sskd_jax.types import UserError, choose

RUN = {
    "seed": 0,
    "dtype": "auto",  # of the networks: bfloat16 on GPUs and TPUs, float32 on the CPU
    "time_limit": 0.0,  # seconds after which the run saves and ends, to go on when it is called again; 0: none
    "save_seconds": 300.0,  # between two checkpoints within an epoch; every epoch ends with one
}

# CIFAR-100 top-1 in per cent, best epoch, as the official repository prints them: tables 3 and 4 of the paper.
BASELINES = {
    "wrn_40_2": 76.46,
    "resnet56": 73.44,
    "resnet32x4": 79.63,
    "vgg13": 75.38,
    "ResNet50": 79.10,
    "wrn_16_2": 73.64,
    "wrn_40_1": 72.24,
    "resnet20": 69.63,
    "resnet8x4": 72.51,
    "vgg8": 70.68,
    "MobileNetV2": 65.79,
    "ShuffleV1": 70.77,
    "ShuffleV2": 73.12,
}
PAIRS = {
    ("wrn_40_2", "wrn_16_2"): {"kd": 74.92, "sskd": 76.04},
    ("wrn_40_2", "wrn_40_1"): {"kd": 73.54, "sskd": 76.13},
    ("resnet56", "resnet20"): {"kd": 70.66, "sskd": 71.49},
    ("resnet32x4", "resnet8x4"): {"kd": 73.33, "sskd": 76.20},
    ("vgg13", "vgg8"): {"kd": 72.98, "sskd": 75.33},
    ("vgg13", "MobileNetV2"): {"kd": 67.37, "sskd": 71.53},
    ("ResNet50", "MobileNetV2"): {"kd": 67.35, "sskd": 72.57},
    ("ResNet50", "vgg8"): {"kd": 73.81, "sskd": 75.76},
    ("resnet32x4", "ShuffleV1"): {"kd": 74.07, "sskd": 78.44},
    ("resnet32x4", "ShuffleV2"): {"kd": 74.45, "sskd": 78.61},
    ("wrn_40_2", "ShuffleV1"): {"kd": 74.83, "sskd": 77.40},
}

# What the paper says of the other methods, in the order of PAIRS; it most likely combined all of them with KD.
OTHERS = {
    "fitnet": (75.75, 74.12, 71.60, 74.31, 73.54, 68.58, 68.54, 73.84, 74.82, 75.11, 75.55),
    "at": (75.28, 74.45, 71.78, 74.26, 73.62, 69.34, 69.28, 73.45, 74.76, 75.30, 75.61),
    "sp": (75.34, 73.15, 71.48, 74.74, 73.44, 66.89, 68.99, 73.86, 73.80, 75.15, 75.56),
    "vid": (74.79, 74.20, 71.71, 74.82, 73.96, 66.91, 68.88, 73.75, 74.28, 75.78, 75.36),
    "rkd": (75.40, 73.87, 71.48, 74.47, 73.72, 68.50, 68.46, 73.73, 74.20, 75.74, 75.45),
    "pkt": (76.01, 74.40, 71.44, 74.17, 73.37, 67.89, 68.44, 73.53, 74.06, 75.18, 75.51),
    "ab": (68.89, 75.06, 71.49, 74.45, 74.27, 68.86, 69.32, 74.20, 76.24, 75.66, 76.58),
    "ft": (75.15, 74.37, 71.52, 75.02, 73.42, 69.19, 69.01, 73.58, 74.31, 74.95, 75.18),
    "crd": (76.04, 75.52, 71.68, 75.90, 74.06, 68.49, 70.32, 74.42, 75.46, 75.72, 75.96),
}
for _name, _scores in OTHERS.items():
    for _pair, _score in zip(PAIRS.values(), _scores, strict=True):
        _pair[f"{_name}+kd"] = _score
TABLES = tuple(PAIRS)

# ImageNet, top-1: those of torchvision's networks, and what later papers say of these methods.
BASELINES |= {"resnet34": 73.31, "resnet18": 69.75}
PAIRS["resnet34", "resnet18"] = {"kd": 70.66, "at": 70.70, "crd": 71.17, "sskd": 71.62}

# The numbers of a method: SSKD's, DKD's and ReviewKD's are their released code's, DIST's its paper's, the others
# RepDistiller's, but for KDSVD's weight, which that does not name and mdistiller does.
_BESIDE = {"kd_temperature": 4.0}
_LOGITS = {"standardize": False}  # compare standardized logits, Sun et al. 2024
METHOD_NUMBERS = {
    "scratch": {},
    "kd": {"temperature": 4.0, **_LOGITS},
    "fitnet": {"layer": 2, **_BESIDE},
    "at": _BESIDE,
    "sp": _BESIDE,
    "cc": {"width": 128, **_BESIDE},
    "vid": {"first_variance": 5.0, **_BESIDE},
    "rkd": {"distance_weight": 25.0, "angle_weight": 50.0, **_BESIDE},
    "pkt": _BESIDE,
    "ab": _BESIDE,
    "ft": {"factor_ratio": 0.5, **_BESIDE},
    "crd": {"width": 128, "negative_count": 16384, "temperature": 0.07, "momentum": 0.5, **_BESIDE},
    "nst": _BESIDE,
    "fsp": _BESIDE,
    "kdsvd": {"count": 1, **_BESIDE},
    "dkd": {"temperature": 4.0, "warmup_epochs": 20, **_LOGITS},
    "dist": {"temperature": 4.0, **_LOGITS},
    "reviewkd": {"warmup_epochs": 20, **_BESIDE},
    "sskd": {
        "kd_temperature": 4.0,
        "tf_temperature": 4.0,
        "ss_temperature": 0.5,
        "tf_ratio": 1.0,
        "ss_ratio": 0.75,
        "head_temperature": 1.0,
    },
}

# The weight of every term; "+kd" behind a method's name gives its `kd` the weight 1. SSKD's differ between the released
# code, the ECCV supplement and the arXiv text.
WEIGHTS = {
    "scratch": {"code": {"ce": 1.0}},
    "kd": {"code": {"ce": 0.1, "kd": 0.9}},
    "fitnet": {"code": {"ce": 1.0, "kd": 0.0, "hint": 100.0}},
    "at": {"code": {"ce": 1.0, "kd": 0.0, "at": 1000.0}},
    "sp": {"code": {"ce": 1.0, "kd": 0.0, "sp": 3000.0}},
    "cc": {"code": {"ce": 1.0, "kd": 0.0, "cc": 0.02}},
    "vid": {"code": {"ce": 1.0, "kd": 0.0, "vid": 1.0}},
    "rkd": {"code": {"ce": 1.0, "kd": 0.0, "rkd": 1.0}},
    "pkt": {"code": {"ce": 1.0, "kd": 0.0, "pkt": 30000.0}},
    "ab": {"code": {"ce": 1.0, "kd": 0.0}},
    "ft": {"code": {"ce": 1.0, "kd": 0.0, "ft": 200.0}},
    "crd": {"code": {"ce": 1.0, "kd": 0.0, "crd": 0.8}},
    "nst": {"code": {"ce": 1.0, "kd": 0.0, "nst": 50.0}},
    "fsp": {"code": {"ce": 1.0, "kd": 0.0}},
    "kdsvd": {"code": {"ce": 1.0, "kd": 0.0, "svd": 1.0}},
    "dkd": {"code": {"ce": 1.0, "tckd": 1.0, "nckd": 8.0}},
    "dist": {"code": {"ce": 1.0, "inter": 2.0, "intra": 2.0}},
    "reviewkd": {"code": {"ce": 1.0, "kd": 0.0, "review": 5.0}},
    "sskd": {
        "code": {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0},
        "eccv": {"ce": 0.1, "kd": 0.9, "tf": 5.0, "ss": 3.0},
        "arxiv": {"ce": 0.1, "kd": 0.9, "tf": 10.0, "ss": 2.7},
    },
}

# Weights that differ from pair to pair, of one term each: DKD's and ReviewKD's released settings.
PAIR_WEIGHTS = {
    "dkd": {
        ("wrn_40_2", "wrn_16_2"): {"nckd": 6.0},
        ("wrn_40_2", "wrn_40_1"): {"nckd": 6.0},
        ("resnet56", "resnet20"): {"nckd": 2.0},
        ("vgg13", "vgg8"): {"nckd": 6.0},
        ("vgg13", "MobileNetV2"): {"nckd": 6.0},
    },
    "reviewkd": {
        ("resnet56", "resnet20"): {"review": 0.6},
        ("resnet32x4", "ShuffleV2"): {"review": 8.0},
    },
}

NAMES = (
    *METHOD_NUMBERS,
    *(f"{name}+kd" for name, presets in WEIGHTS.items() if presets["code"].get("kd") == 0),
)

LIGHT = ("MobileNetV2", "ShuffleV1", "ShuffleV2")


def parse(arg: str | None, **defaults: str) -> dict[str, str]:
    """ "method=kd,sskd,teacher=vgg13" -> the defaults with these values, of which "kd,sskd" is one.

    Raises:
      UserError: a part is neither key=value nor goes on with a value, or its key is not among the defaults.
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
            raise UserError(f"config argument {key!r} has no value: write {key}={defaults[key]}")
        values[key] = value
    return values


def whole(text: str, key: str) -> int:
    """The whole number above 0 that a config argument says."""
    if not text.isdecimal() or not int(text):
        raise UserError(f"config argument {key}={text}: give a whole number above 0")
    return int(text)


def learning_rate(model: str) -> float:
    """The reference's, by architecture."""
    return 0.01 if choose(MODELS, model, "architecture") and model in LIGHT else 0.05


def sgd(
    *,
    epochs: int,
    milestones: tuple[int, ...],
    learning_rate: float,
    batch_size: int = 64,
    fraction: float = 1.0,
    warmup_epochs: float = 0.0,
    cooldown_epochs: float = 0.0,
    weight_decay: float = 5e-4,
) -> dict[str, object]:
    """One stage's training: SGD whose rate is a tenth from every milestone (epochs, from 0) on.

    `fraction` is the share of the training images, of every class alike, that the stage sees; over the first
    `warmup_epochs` the rate rises from nothing, and over the last `cooldown_epochs` it falls to nothing.
    """
    return dict(
        epochs=epochs,
        batch_size=batch_size,
        fraction=fraction,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        milestones=milestones,
        decay=0.1,
        cooldown_epochs=cooldown_epochs,
        momentum=0.9,
        weight_decay=weight_decay,
    )


def own_stages(student: str) -> dict[str, dict[str, object]]:
    """The stages of methods' own on CIFAR-100 by name: SSKD's head; AB's and FSP's warm-up and FT's paraphraser.

    `checkpoint` is a workdir of ours in which that very stage was trained on this teacher.
    """
    thirty = dict(
        checkpoint="", **sgd(epochs=30, milestones=(), learning_rate=learning_rate(student))
    )
    return {
        "head": dict(checkpoint="", **sgd(epochs=60, milestones=(30, 45), learning_rate=0.05)),
        "warmup": thirty,
        "paraphraser": thirty | ({} if student.startswith("vgg") else {"learning_rate": 0.01}),
    }


def method(name: str, preset: str = "code", pair: tuple[str, str] | None = None) -> ConfigDict:
    """A method with its numbers, and its terms' weights for a pair of networks. "at+kd" is "at" with KD beside it."""
    choose(dict.fromkeys(NAMES), name, "method")
    base = name.removesuffix("+kd")
    weights = choose(WEIGHTS[base], preset, f"weights for {base}") | PAIR_WEIGHTS.get(base, {}).get(
        pair, {}
    )
    weights |= {"kd": 1.0} if base != name else {}
    return ConfigDict(dict(method=dict(name=base, **METHOD_NUMBERS[base]), weights=weights))


def methods(names: str, one: Callable[[str], ConfigDict]) -> ConfigDict:
    """The method of a name; where names are parted by commas, all of them, each with its settings."""
    chosen = tuple(names.split(","))
    if len(chosen) == 1:
        return one(names)
    return ConfigDict(dict(methods=chosen, settings={name: one(name) for name in chosen}))


def paper(names: str, teacher: str, student: str) -> dict[str, float]:
    """The paper's accuracies in per cent of the networks that it has: the teacher's, and those that methods lead to."""
    known = PAIRS.get((teacher, student), {}) | {"scratch": BASELINES.get(student)}
    scores = {name: known.get(name) for name in names.split(",")}
    found = {"teacher": BASELINES.get(teacher)} | (
        scores if "," in names else {"student": scores[names]}
    )
    return {name: score for name, score in found.items() if score}
