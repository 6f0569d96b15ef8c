"""Logit standardization (Sun et al., CVPR 2024) by pair of networks, from its code and logs."""

from collections.abc import Mapping

Pair = tuple[str, str]  # teacher, student

# The temperature and the weight of KD.
KD_LS = {
    ("resnet110", "resnet20"): (4.0, 12.0),
    ("vgg13", "vgg8"): (3.0, 9.0),
    ("vgg13", "MobileNetV2"): (3.0, 9.0),
    ("ResNet50", "MobileNetV2"): (3.0, 1.0),
    ("resnet32x4", "wrn_16_2"): (3.0, 9.0),
    ("resnet32x4", "wrn_40_2"): (3.0, 9.0),
    ("wrn_40_2", "MobileNetV2"): (3.0, 9.0),
}
# The temperature, the weight of tckd and the weight of nckd.
DKD_LS = {
    ("wrn_40_2", "wrn_16_2"): (2.0, 12.0, 24.0),
    ("wrn_40_2", "wrn_40_1"): (2.0, 12.0, 24.0),
    ("resnet56", "resnet20"): (3.0, 18.0, 36.0),
    ("resnet110", "resnet20"): (2.0, 15.0, 30.0),
    ("resnet110", "resnet32"): (2.0, 15.0, 30.0),
    ("vgg13", "vgg8"): (2.0, 15.0, 30.0),
    ("vgg13", "MobileNetV2"): (3.0, 9.0, 18.0),
    ("ResNet50", "MobileNetV2"): (2.0, 15.0, 30.0),
    ("resnet32x4", "wrn_16_2"): (2.0, 9.0, 18.0),
    ("wrn_40_2", "resnet8x4"): (2.0, 18.0, 36.0),
    ("wrn_40_2", "MobileNetV2"): (2.0, 15.0, 30.0),
}
# The pairs for which the weights of MLKD's terms are 6 instead of 9.
MLKD_LS_LESS = (("vgg13", "vgg8"), ("vgg13", "MobileNetV2"), ("resnet32x4", "ShuffleV2"))


def by_name(table: Mapping[Pair, tuple[float, ...]], *names: str) -> dict[Pair, dict[str, float]]:
    """The rows of a table with a name for each of their columns."""
    return {pair: dict(zip(names, row, strict=True)) for pair, row in table.items()}
