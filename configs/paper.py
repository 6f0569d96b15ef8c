"""Published accuracies of networks, of pairs and of methods, by dataset."""

from collections.abc import Mapping
from typing import NamedTuple

# CIFAR-100 top-1 in per cent, best epoch, as the official repository prints them: tables 3 and 4
# of the paper. Those of KD equal the ones of CRD's authors in every digit, so most likely they are
# of the last epoch, and with CRD's teachers.
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

# The paper's accuracies of the other methods, in the order of PAIRS; most likely, it combined all
# of them with KD.
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

# From CRD's authors, last epoch.
BASELINES |= {"resnet110": 74.31, "resnet32": 71.14}
PAIRS |= {
    ("resnet110", "resnet20"): {"kd": 70.67},
    ("resnet110", "resnet32"): {"kd": 73.08},
}

# Accuracies from later papers, of the best epoch, with CRD's teachers. All but ResNet50 are weaker
# than those above. All trained for 240 epochs on one view, except MLKD: 480 (960 for ShuffleV2) on
# two views. TTM, WTTM and ITRD have numbers of their own for each pair, most of them not released.
CRD_TEACHERS = {
    "wrn_40_2": 75.61,
    "resnet56": 72.34,
    "resnet110": 74.31,
    "resnet32x4": 79.42,
    "vgg13": 74.64,
    "ResNet50": 79.34,
}
LATER_PAIRS = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("ResNet50", "vgg8"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"),
)
# fmt: off
LATER = {
    # The table of TTM's authors. ITRD's and DIST's own authors print other numbers for some pairs:
    # ITRD 76.69 for resnet32x4 -> resnet8x4, DIST 74.43 +- .24 for wrn_40_2 -> wrn_40_1.
    "ttm": (76.23, 74.32, 71.83, 71.46, 73.97, 76.17, 74.33,
            68.98, 69.24, 74.87, 74.18, 76.57, 75.39),
    "wttm": (76.37, 74.58, 71.92, 71.67, 74.13, 76.06, 74.44,
             69.16, 69.59, 74.82, 74.37, 76.55, 75.42),
    "itrd": (76.12, 75.18, 71.47, 71.99, 74.26, 76.19, 74.93,
             70.39, 71.41, 75.71, 76.91, 77.40, 77.35),
    "dist": (75.51, 74.73, 71.75, 71.65, 73.69, 76.31, 73.89,
             68.50, 68.66, 74.11, 76.34, 77.35, 76.40),
    # The tables of the authors of logit standardization; for DKD, that of DKD's authors.
    "ctkd": (75.45, 73.93, 71.19, 70.99, 73.52, 73.39, 73.52,
             68.50, 68.67, None, None, 75.37, None),
    "kd+ls": (76.11, 74.37, 71.43, 71.48, 74.17, 76.62, 74.36,
              68.61, 69.02, None, None, 75.56, None),
    "dkd": (76.23, 74.81, 71.97, 71.06, 74.11, 76.32, 74.68,
            69.71, 70.35, None, 76.45, 77.07, 76.70),
    "dkd+ls": (76.39, 74.89, 72.32, 71.85, 74.29, 77.01, 74.81,
               69.98, 70.45, None, None, 77.37, None),
    "mlkd": (76.63, 75.35, 72.19, 71.89, 74.11, 77.08, 75.18,
             70.57, 71.04, None, None, 78.44, None),
    "mlkd+ls": (76.95, 75.56, 72.33, 72.27, 74.32, 78.28, 75.22,
                70.94, 71.19, None, None, 78.76, None),
    # The table of DOT's authors.
    "dot": (None, None, None, None, None, 75.12, 73.77,
            None, None, None, None, 75.55, None),
}
# fmt: on
for _name, _scores in LATER.items():
    for _pair, _score in zip(LATER_PAIRS, _scores, strict=True):
        PAIRS[_pair] |= {_name: _score} if _score else {}

# Pairs that only the authors of logit standardization have.
PAIRS |= {
    ("resnet32x4", "wrn_16_2"): {
        "kd+ls": 75.26,
        "dkd+ls": 76.19,
        "mlkd": 76.52,
        "mlkd+ls": 77.53,
    },
    ("resnet32x4", "wrn_40_2"): {
        "kd+ls": 77.92,
        "dkd+ls": 78.95,
        "mlkd": 79.26,
        "mlkd+ls": 79.66,
    },
    ("wrn_40_2", "resnet8x4"): {
        "kd+ls": 77.11,
        "dkd+ls": 76.75,
        "mlkd": 77.33,
        "mlkd+ls": 77.68,
    },
    ("wrn_40_2", "MobileNetV2"): {"kd+ls": 69.23, "dkd+ls": 70.01},
}

# From HSAKD's authors (poster; best epoch, mean of three): pairs with a frozen teacher and with a
# joint one, that teacher itself, and HSSAKD's two equal peers. Their MobileNetV2 is MobileNetV2s1.
HSAKD_TEACHERS = {"wrn_40_2": 76.45, "vgg13": 74.64, "ResNet50": 79.34}  # where not as above
HSAKD = {
    ("wrn_40_2", "wrn_16_2"): (77.20, 78.67),
    ("wrn_40_2", "wrn_40_1"): (77.00, 78.12),
    ("resnet56", "resnet20"): (72.58, 73.73),
    ("resnet32x4", "resnet8x4"): (77.26, 77.69),
    ("vgg13", "MobileNetV2s1"): (77.45, 79.27),
    ("ResNet50", "MobileNetV2s1"): (78.79, 79.43),
    ("wrn_40_2", "ShuffleV1"): (78.51, 80.11),
    ("resnet32x4", "ShuffleV2"): (79.93, 80.86),
}
for _pair, (_frozen, _joint) in HSAKD.items():
    PAIRS[_pair] = PAIRS.get(_pair, {}) | {"hsakd": _frozen, "hsakd_joint": _joint}
JOINT_TEACHERS = {
    "wrn_40_2": 80.70,
    "resnet56": 77.20,
    "resnet32x4": 83.73,
    "vgg13": 78.48,
    "ResNet50": 83.85,
}
HSSAKD = {
    "wrn_40_2": 82.58,
    "wrn_40_1": 76.67,
    "resnet56": 78.16,
    "resnet32x4": 84.91,
    "vgg13": 80.44,
    "MobileNetV2s1": 78.85,
    "ShuffleV1": 78.34,
    "ShuffleV2": 79.98,
}
for _model, _score in HSSAKD.items():
    PAIRS[_model, _model] = {"hssakd": _score}
BASELINES |= {"MobileNetV2s1": 73.51}


class Published(NamedTuple):
    """The published accuracies on a dataset, in per cent.

    Attributes:
      networks: of networks that learned the labels alone.
      pairs: of students, by (teacher, student) and method.
      joint_teachers: of teachers that learned together with their branches.
      teachers: of a method's teachers, by method, where they differ from `networks`.
    """

    networks: Mapping[str, float]
    pairs: Mapping[tuple[str, str], Mapping[str, float]]
    joint_teachers: Mapping[str, float]
    teachers: Mapping[str, Mapping[str, float]]


# ImageNet, top-1 of the best epoch: torchvision's networks, and the published results of methods.
# AT, CRD and SSKD trained for 90 epochs or do not say; CTKD for 120; the others for 100. KD's is
# mdistiller's, with the temperature and weights of the configs; KD+LS has 71.26 in its last epoch.
IMAGENET = Published(
    {"resnet34": 73.31, "resnet18": 69.75},
    {
        ("resnet34", "resnet18"): {
            "kd": 71.03,
            "kd+ls": 71.45,
            "at": 70.70,
            "crd": 71.17,
            "dkd": 71.70,
            "dist": 72.07,
            "reviewkd": 71.61,
            "wttm": 72.19,
            "dot": 71.72,
            "ctkd": 71.32,
            "itrd": 71.68,
            "srd": 71.87,
            "sskd": 71.62,
            "hsakd": 72.16,
            "hsakd_joint": 72.39,
        },
        ("resnet18", "resnet18"): {"hssakd": 71.49},
    },
    {"resnet34": 75.48},
    {"ctkd": {"resnet34": 73.96}},
)
CIFAR100 = Published(
    BASELINES,
    PAIRS,
    JOINT_TEACHERS,
    dict.fromkeys(LATER, CRD_TEACHERS) | {"hsakd": HSAKD_TEACHERS},
)
PUBLISHED = {"cifar100": CIFAR100, "imagenet2012": IMAGENET}


def paper(names: str, data: str, teacher: str, student: str) -> dict[str, object]:
    """Published accuracies in per cent: the teacher's, and the students' by the named methods.

    The teacher is that of the methods' authors; if they had different ones, its accuracy is left
    out. KD counts as one of SSKD's authors, who print it beside their own teacher. A teacher that
    learns together with its branches has another accuracy. The entry "of" names the data and the
    networks for which the accuracies hold. There are none for unknown data.
    """
    if data not in PUBLISHED:
        return {}
    known = PUBLISHED[data]
    usual = known.networks.get(teacher)
    pair = known.pairs.get((teacher, student), {}) | {"scratch": known.networks.get(student)}
    scores = {name: pair.get(name) for name in names.split(",")}
    students = scores if "," in names else {"student": scores[names]}
    taught = [name for name, score in scores.items() if score and name != "scratch"]
    theirs = {known.teachers.get(name, {}).get(teacher, usual) for name in taught} or {usual}
    teachers = {"teacher": theirs.pop() if len(theirs) == 1 else None}
    if "hsakd_joint" in scores:
        stage = "teacher" if names == "hsakd_joint" else "hsakd_joint/teacher"
        teachers[stage] = known.joint_teachers.get(teacher)
    of = {"data": data, "teacher": teacher, "student": student}
    return {"of": of} | {name: score for name, score in (teachers | students).items() if score}
