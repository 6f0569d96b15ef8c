"""The methods' numbers against tables that were written from papers and released programs."""

import pytest

from configs import cifar, imagenet, named

KD = {"ce": 0.1, "kd": 0.9}
HALF = {"ce": 0.5, "kd": 0.5}
CIFAR = {
    # RepDistiller: scripts/run_cifar_distill.sh, and the defaults of train_student.py.
    "kd": {"temperature": 4, "standardize": False, **KD},
    "fitnet": {"hint": 100, "layer": 2},
    "at": {"at": 1000},
    "sp": {"sp": 3000},
    "cc": {"cc": 0.02, "width": 128},
    "vid": {"vid": 1, "first_variance": 5},
    "rkd": {"rkd": 1, "distance_weight": 25, "angle_weight": 50},
    "pkt": {"pkt": 30_000},
    "ft": {"ft": 200, "factor_ratio": 0.5},
    "nst": {"nst": 50},
    "crd": {"crd": 0.8, "width": 128, "negative_count": 16_384, "temperature": 0.07},
    "crd+kd": {"crd": 0.8, "ce": 1, "kd": 1, "kd_temperature": 4, "momentum": 0.5},
    # The repositories of their authors, and mdistiller for DKD and DOT.
    "dkd": {"temperature": 4, "warmup_epochs": 20, "ce": 1, "tckd": 1, "nckd": 6},
    "dist": {"temperature": 4, "ce": 1, "inter": 2, "intra": 2},
    "reviewkd": {"warmup_epochs": 20, "student_preacts": False, "review": 5},
    "ttm": {"temperature": 10, "ce": 1, "ttm": 45},
    "wttm": {"temperature": 5, "ce": 1, "wttm": 4},
    "ctkd": {"lowest": 1, "span": 20, "ramp_epochs": 10, **KD},
    "mlkd": {"temperature": 4, **KD, "class": 0.9, "batch": 0.9},
    "dot": {"temperature": 4, "momentum_offset": 0.075, **KD},
    "itrd": {"alpha": 1.01, "ce": 1, "correlation": 2, "mutual": 1},
    "hsakd": {"temperature": 3, "ce": 1, "kd": 1, "joint_kd": 1},
    "hssakd": {"temperature": 3, "ce": 1, "joint_ce": 1, "kd": 1, "joint_kd": 1},
    "ldam": {"largest_margin": 0.5, "scale": 30, "beta": 0.9999, "deferred_epochs": 160},
    "coca": {"omega": 0.1, "gamma": 0.01, "width": 64, "temperature": 0.07, "supcon": 0.3},
}
IMAGENET = {
    "kd": {"temperature": 1, **HALF},
    "kd+ls": {"temperature": 2, "standardize": True, "ce": 1, "kd": 9},
    "dkd": {"temperature": 1, "warmup_epochs": 0, "ce": 1, "tckd": 1, "nckd": 0.5},
    "dist": {"temperature": 1, "ce": 1, "inter": 2, "intra": 2},
    "reviewkd": {"warmup_epochs": 0, "student_preacts": True, "review": 1},
    "ctkd": {"ramp_epochs": 5, "ce": 1, "kd": 1},
    "mlkd": {"temperature": 1, **HALF, "class": 0.5, "batch": 0.5},
    "dot": {"temperature": 1, "momentum_offset": 0.09, **HALF},
    "srd": {"kd_temperature": 1, "ce": 1, "kd": 1, "representation": 2},
    "ssd_lt": {"queue_length": 115_712, "key_momentum": 0.999, "jitter": 0.4, "width": 128},
}
# Temperature and weight of KD, temperature, weight and beta of DKD, and the weight of MLKD, on
# standardized logits; DKD's own beta; ReviewKD's weight. A dash is where none was released.
PAIRS = """
wrn_40_2   wrn_16_2     2  9  2 12 2  9  6  5
wrn_40_2   wrn_40_1     2  9  2 12 2  9  6  5
wrn_40_2   resnet8x4    2  9  2 18 2  9  -  -
wrn_40_2   MobileNetV2  3  9  2 15 2  9  -  -
wrn_40_2   ShuffleV1    -  -  -  - -  -  8  5
resnet56   resnet20     2  9  3 18 2  9  2  0.6
resnet110  resnet20     4 12  2 15 2  9  -  -
resnet110  resnet32     2  9  2 15 2  9  2  1
resnet32x4 resnet8x4    2  9  2  9 8  9  8  5
resnet32x4 wrn_16_2     3  9  2  9 2  9  -  -
resnet32x4 wrn_40_2     3  9  2  9 8  9  -  -
resnet32x4 ShuffleV1    -  -  -  - -  -  8  5
resnet32x4 ShuffleV2    2  9  2  9 8  6  8  8
vgg13      vgg8         3  9  2 15 2  6  6  -
vgg13      MobileNetV2  3  9  3  9 2  6  6  -
ResNet50   MobileNetV2  3  1  2 15 2  9  8  -
"""


def numbers_of(config) -> dict[str, object]:
    """The numbers and weights of a config's method."""
    return config.method.to_dict() | config.weights.to_dict()


@pytest.mark.parametrize("name", CIFAR)
def test_numbers_on_cifar(name):
    assert CIFAR[name].items() <= numbers_of(cifar.get_config(f"method={name}")).items()


@pytest.mark.parametrize("name", IMAGENET)
def test_numbers_on_imagenet(name):
    assert IMAGENET[name].items() <= numbers_of(imagenet.get_config(f"method={name}")).items()


@pytest.mark.parametrize("row", PAIRS.strip().splitlines())
def test_numbers_of_a_pair(row):
    teacher, student, *published = row.split()
    names = ("kd+ls", "dkd+ls", "mlkd+ls", "dkd", "reviewkd")
    kd, dkd, mlkd, plain, review = (
        numbers_of(named.method(name, pair=(teacher, student))) for name in names
    )
    beta = dkd["nckd"] / dkd["tckd"]
    found = [kd["temperature"], kd["kd"], dkd["temperature"], dkd["tckd"], beta]
    found += [mlkd["kd"], plain["nckd"], review["review"]]
    for ours, theirs in zip(found, published, strict=True):
        assert theirs in ("-", f"{ours:g}")
    assert kd["standardize"] and dkd["standardize"] and mlkd["standardize"]
    assert (kd["ce"], dkd["ce"], mlkd["ce"], mlkd["temperature"]) == (0.1, 1, 0.1, 2)
    assert mlkd["kd"] == mlkd["class"] == mlkd["batch"]


def test_epochs_of_stages_before_the_student():
    on_cifar = cifar.get_config("method=sskd,hsakd,ab,ft")
    released = {"head": 60, "branches": 100, "warmup": 30, "paraphraser": 30}
    assert {name: on_cifar[name].epochs for name in released} == released
    on_imagenet = imagenet.get_config("method=sskd,hsakd")
    assert (on_imagenet.head.epochs, on_imagenet.branches.epochs) == (24, 100)  # the head's is ours
