"""One entry per method: its numbers, the weights of its terms by preset, its own stages' schedules.

Numbers are those of the authors' released code, unless a comment says "ours". Those of the methods
from `fitnet` to `nst` and of `fsp` are RepDistiller's; KDSVD's weight, which is missing there, is
ours. Those for ImageNet are mdistiller's, except for DIST, CTKD, MLKD, LS and SSD-LT, where they
are the authors'.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from configs.common import learning_rate, sgd
from configs.standardized import DKD_LS, KD_LS, MLKD_LS_LESS, Pair, by_name

Schedules = dict[str, dict[str, object]]


def no_stages(student: str) -> Schedules:
    return {}


class Entry(NamedTuple):
    """What the configs know of a method.

    Attributes:
      numbers: the arguments of its factory, on CIFAR-100.
      weights: of its terms by preset; "code" is the default.
      stages: student's architecture -> how its stages besides teacher and student are trained on
        CIFAR-100.
      by_pair: weights and numbers that differ for some pairs of networks.
      imagenet_numbers, imagenet_weights: those that differ on ImageNet, ResNet-34 -> ResNet-18.
      nesterov: which of the stages "teacher" and "student" it trains with Nesterov's momentum on
        CIFAR-100.
    """

    numbers: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, float]]
    stages: Callable[[str], Schedules] = no_stages
    by_pair: Mapping[Pair, Mapping[str, Any]] = {}
    imagenet_numbers: Mapping[str, Any] = {}
    imagenet_weights: Mapping[str, float] = {}
    nesterov: tuple[str, ...] = ()


def head(student: str) -> Schedules:
    """SSKD's stage: the contrastive task of the teacher's head."""
    return {"head": sgd(epochs=60, milestones=(30 / 60, 45 / 60), learning_rate=0.05)}


def branches(student: str) -> Schedules:
    """HSAKD's stage: the teacher's branches."""
    schedule = sgd(epochs=100, milestones=(0.3, 0.6, 0.9), learning_rate=0.05, nesterov=True)
    return {"branches": schedule}


def warmup(student: str) -> Schedules:
    """The first stage of AB and FSP, which trains the student."""
    return {"warmup": sgd(epochs=30, milestones=(), learning_rate=learning_rate(student))}


def paraphraser(student: str) -> Schedules:
    """FT's stage: the paraphraser of the teacher's map."""
    rate = 0.01 if student.startswith(("resnet", "wrn")) else learning_rate(student)
    return {"paraphraser": sgd(epochs=30, milestones=(), learning_rate=rate)}


def ssd_lt_stages(student: str) -> Schedules:
    """SSD-LT's stages: features, then a few epochs of scales: ours, for CIFAR."""
    features = sgd(epochs=200, milestones=(), learning_rate=0.1, batch_size=128, cosine=True)
    scales = sgd(epochs=10, milestones=(), learning_rate=0.2, batch_size=128, cosine=True)
    return {"features": features, "scales": scales}


def classifier(student: str) -> Schedules:
    """The stage of `decoupled` that trains the classifier for a few epochs: ours, for CIFAR."""
    schedule = sgd(epochs=10, milestones=(), learning_rate=0.1, batch_size=128, cosine=True)
    return {"classifier": schedule}


def without_kd(**weights: float) -> dict[str, dict[str, float]]:
    """The preset of a method with these terms and the term `kd`, which "+kd" switches on."""
    return {"code": {"ce": 1.0, "kd": 0.0, **weights}}


KD = {"kd_temperature": 4.0}  # of the term `kd`
# Standardized logits (Sun et al. 2024) need other weights, which the methods "+ls" have.
LOGITS = {"standardize": False}
SHIFT = {"shift": False}  # knowledge adjustment of the teacher's logits, see "ka"
# Knowledge adjustment and dynamic temperatures: ours, chosen among those of reimplementations. The
# paper's numbers are not known.
ADJUSTMENT = {"adjustment": "shift", "smoothing": 0.1}
DYNAMIC = {"weighting": "flsw", "beta": 10.0, "gamma": 1.0}
# CIFAR-10 in five tasks of two classes, for 50 epochs each.
STREAM = {"task_classes": 2, "task_epochs": 50, "buffer_size": 200, "replay_size": 32}

METHODS = {
    "scratch": Entry({}, {"code": {"ce": 1.0}}),
    "kd": Entry(
        {"temperature": 4.0, **LOGITS},
        {"code": {"ce": 0.1, "kd": 0.9}},
        imagenet_numbers={"temperature": 1.0},
        imagenet_weights={"ce": 0.5, "kd": 0.5},
    ),
    "fitnet": Entry({"layer": 2, **KD}, without_kd(hint=100.0)),
    "at": Entry(KD, without_kd(at=1000.0)),
    "sp": Entry(KD, without_kd(sp=3000.0)),
    "cc": Entry({"width": 128, **KD}, without_kd(cc=0.02)),
    "vid": Entry({"first_variance": 5.0, **KD}, without_kd(vid=1.0)),
    "rkd": Entry({"distance_weight": 25.0, "angle_weight": 50.0, **KD}, without_kd(rkd=1.0)),
    "pkt": Entry(KD, without_kd(pkt=30000.0)),
    "ab": Entry(KD, without_kd(), warmup),
    "ft": Entry({"factor_ratio": 0.5, **KD}, without_kd(ft=200.0), paraphraser),
    "crd": Entry(
        {"width": 128, "negative_count": 16384, "temperature": 0.07, "momentum": 0.5, **KD},
        without_kd(crd=0.8),
    ),
    "nst": Entry(KD, without_kd(nst=50.0)),
    "fsp": Entry(KD, without_kd(), warmup),
    "kdsvd": Entry({"count": 1, **KD}, without_kd(svd=1.0)),
    "dkd": Entry(
        {"temperature": 4.0, "warmup_epochs": 20, **LOGITS, **SHIFT},
        {"code": {"ce": 1.0, "tckd": 1.0, "nckd": 8.0}},
        by_pair={
            ("wrn_40_2", "wrn_16_2"): {"nckd": 6.0},
            ("wrn_40_2", "wrn_40_1"): {"nckd": 6.0},
            ("resnet56", "resnet20"): {"nckd": 2.0},
            ("resnet110", "resnet20"): {"nckd": 2.0},  # ours, that of its siblings
            ("resnet110", "resnet32"): {"nckd": 2.0},
            ("vgg13", "vgg8"): {"nckd": 6.0},
            ("vgg13", "MobileNetV2"): {"nckd": 6.0},
        },
        imagenet_numbers={"temperature": 1.0, "warmup_epochs": 0},
        imagenet_weights={"nckd": 0.5},
    ),
    "dist": Entry(
        {"temperature": 4.0, **LOGITS, **SHIFT},
        {"code": {"ce": 1.0, "inter": 2.0, "intra": 2.0}},
        imagenet_numbers={"temperature": 1.0},
    ),
    "reviewkd": Entry(
        {"warmup_epochs": 20, "student_preacts": False, **KD},
        without_kd(review=5.0),  # also for vgg and MobileNetV2, for which none was released
        by_pair={
            ("resnet56", "resnet20"): {"review": 0.6},
            ("resnet110", "resnet20"): {"review": 0.6},  # ours, that of the same student
            ("resnet110", "resnet32"): {"review": 1.0},
            ("resnet32x4", "ShuffleV2"): {"review": 8.0},
        },
        imagenet_numbers={"warmup_epochs": 0, "student_preacts": True},
        imagenet_weights={"review": 1.0},
    ),
    "ka": Entry({"temperature": 8.0, **ADJUSTMENT}, {"code": {"ce": 0.1, "kd": 0.9}}),
    "dtd": Entry({"temperature": 8.0, **DYNAMIC}, {"code": {"ce": 0.1, "kd": 0.9}}),
    "ka_dtd": Entry(
        {"temperature": 8.0, **ADJUSTMENT, **DYNAMIC}, {"code": {"ce": 0.1, "kd": 0.9}}
    ),
    # The released examples are for vgg13 -> vgg8; WTTM's also had CRD. Numbers for other pairs and
    # for ImageNet are not released.
    "ttm": Entry({"temperature": 10.0, **SHIFT}, {"code": {"ce": 1.0, "ttm": 45.0}}),
    "wttm": Entry({"temperature": 5.0, **SHIFT}, {"code": {"ce": 1.0, "wttm": 4.0}}),
    "ctkd": Entry(
        {"lowest": 1.0, "span": 20.0, "ramp_epochs": 10, **LOGITS},
        {"code": {"ce": 0.1, "kd": 0.9}},
        imagenet_numbers={"ramp_epochs": 5},
        imagenet_weights={"ce": 1.0, "kd": 1.0},
    ),
    "mlkd": Entry(
        {"temperature": 4.0, **LOGITS},
        {"code": {"ce": 0.1, "kd": 0.9, "class": 0.9, "batch": 0.9}},
        imagenet_numbers={"temperature": 1.0},
        imagenet_weights={"ce": 0.5, "kd": 0.5, "class": 0.5, "batch": 0.5},
    ),
    "dot": Entry(
        {"temperature": 4.0, "momentum_offset": 0.075},
        {"code": {"ce": 0.1, "kd": 0.9}},
        imagenet_numbers={"temperature": 1.0, "momentum_offset": 0.09},
        imagenet_weights={"ce": 0.5, "kd": 0.5},
    ),
    # The released example, wrn_40_2 -> wrn_16_2. For other pairs, the code has alpha 1.5 and mutual
    # .05, and TTM's authors used 1.5 and 1.
    "itrd": Entry({"alpha": 1.01}, {"code": {"ce": 1.0, "correlation": 2.0, "mutual": 1.0}}),
    # Released for ImageNet alone.
    "srd": Entry({"kd_temperature": 1.0}, {"code": {"ce": 1.0, "kd": 1.0, "representation": 2.0}}),
    "sskd": Entry(
        {
            "transformation": "rotation",
            "kd_temperature": 4.0,
            "tf_temperature": 4.0,
            "ss_temperature": 0.5,
            "tf_ratio": 1.0,
            "ss_ratio": 0.75,
            "head_temperature": 1.0,
        },
        {  # from the released code, from the ECCV supplement, and from the arXiv text
            "code": {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0},
            "eccv": {"ce": 0.1, "kd": 0.9, "tf": 5.0, "ss": 3.0},
            "arxiv": {"ce": 0.1, "kd": 0.9, "tf": 10.0, "ss": 2.7},
        },
        head,
    ),
    "pretext": Entry(
        {
            "task": "jigsaw",
            "exemplars": 50_000,  # CIFAR's training images
            "kd_temperature": 4.0,
            "tf_temperature": 4.0,
            "ss_temperature": 0.5,
        },
        {"code": {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0}},  # SSKD's, as in reimplementations
        head,
    ),
    "hsakd": Entry(
        {"temperature": 3.0},
        {"code": {"ce": 1.0, "kd": 1.0, "joint_kd": 1.0}},
        branches,
        nesterov=("student",),
    ),
    "hsakd_joint": Entry(
        {"temperature": 3.0},
        {"code": {"ce": 1.0, "kd": 1.0, "joint_kd": 1.0}},
        nesterov=("teacher", "student"),
    ),
    "hssakd": Entry(
        {"temperature": 3.0},
        {"code": {"ce": 1.0, "joint_ce": 1.0, "kd": 1.0, "joint_kd": 1.0}},
        nesterov=("student",),
    ),
    "ssd_lt": Entry(
        {
            "width": 128,
            "queue_length": 8192,  # ours
            "key_momentum": 0.999,
            "contrast_temperature": 0.2,
            "kd_temperature": 2.0,
            "jitter": 0.0,
            "teacher_trains": False,
        },
        {"code": {"ce": 1.0, "kd": 1.0}},
        ssd_lt_stages,
        imagenet_numbers={"queue_length": 115712, "jitter": 0.4},
    ),
    "logit_adjustment": Entry({"strength": 1.0}, {"code": {"ce": 1.0}}),
    "ldam": Entry(
        {"largest_margin": 0.5, "scale": 30.0, "beta": 0.9999, "deferred_epochs": 160},
        {"code": {"ldam": 1.0}},
        imagenet_numbers={"deferred_epochs": 72},  # ours, four fifths of 90
    ),
    "decoupled": Entry({"rescale": True}, {"code": {"ce": 1.0}}, classifier),
    "der": Entry(
        {**STREAM, "keep_logits": True, "replay_labels": True},
        {"code": {"ce": 1.0, "distil": 0.1, "replay": 0.5}},
    ),
    "coca": Entry(
        {
            **STREAM,
            "boundaries": True,
            "omega": 0.1,
            "gamma": 0.01,
            "width": 64,
            "temperature": 0.07,
            "stretched": False,
        },
        {"code": {"ce": 1.0, "distil": 0.1, "replay": 0.5, "supcon": 0.3, "rot": 0.3}},
    ),
}


def with_kd(entry: Entry) -> Entry:
    """The method with Hinton's KD as a further term, of weight 1."""
    weights = {preset: own | {"kd": 1.0} for preset, own in entry.weights.items()}
    return entry._replace(weights=weights)


STANDARDIZED = {"temperature": 2.0, "standardize": True}

# Further names that can be typed as a method: one of the above with other numbers or weights.
# "at+kd" is AT with KD as a further term, "kd+ls" is KD on standardized logits.
VARIANTS = {
    **{
        f"{name}+kd": with_kd(entry)
        for name, entry in METHODS.items()
        if entry.weights["code"].get("kd") == 0
    },
    "kd+ls": Entry(
        STANDARDIZED,
        {"code": {"ce": 0.1, "kd": 9.0}},
        by_pair=by_name(KD_LS, "temperature", "kd"),
        imagenet_weights={"ce": 1.0},
    ),
    "dkd+ls": Entry(
        {"warmup_epochs": 20, **STANDARDIZED, **SHIFT},
        {"code": {"ce": 1.0, "tckd": 9.0, "nckd": 72.0}},
        by_pair=by_name(DKD_LS, "temperature", "tckd", "nckd"),
        imagenet_numbers={"warmup_epochs": 0},  # this and the weight: ours, as none is published
        imagenet_weights={"nckd": 4.5},
    ),
    "mlkd+ls": Entry(
        STANDARDIZED,
        {"code": {"ce": 0.1, "kd": 9.0, "class": 9.0, "batch": 9.0}},
        by_pair={pair: {"kd": 6.0, "class": 6.0, "batch": 6.0} for pair in MLKD_LS_LESS},
        imagenet_weights={"ce": 0.5},  # ours, as none is published: that of "mlkd"
    ),
}
ENTRIES = METHODS | VARIANTS
NAMES = tuple(ENTRIES)
