"""What is published: accuracies of networks, of pairs and of methods."""

# CIFAR-100 top-1 in per cent, best epoch, as the official repository prints them: tables 3 and 4
# of the paper.
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

# What the paper says of the other methods, in the order of PAIRS; it most likely combined all of
# them with KD.
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


def paper(names: str, teacher: str, student: str) -> dict[str, float]:
    """Published accuracies in per cent: the teacher's, and those that the named methods lead to."""
    known = PAIRS.get((teacher, student), {}) | {"scratch": BASELINES.get(student)}
    scores = {name: known.get(name) for name in names.split(",")}
    students = scores if "," in names else {"student": scores[names]}
    found = {"teacher": BASELINES.get(teacher)} | students
    return {name: score for name, score in found.items() if score}
