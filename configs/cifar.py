r"""CIFAR-100 as in the paper: teacher (240 epochs), self-supervision head (60), student (240).

    python -m sskd_jax.main --config=configs/cifar.py --workdir=runs/sskd
    python -m sskd_jax.main --config=configs/cifar.py:method=kd,teacher=vgg13,student=MobileNetV2
    python -m sskd_jax.main --config=configs/cifar.py:method=scratch,kd,sskd --workdir=runs/table
    python -m sskd_jax.main --config=configs/cifar.py:weights=eccv \
        --config.teacher.checkpoint=runs/sskd

Expect (paper, wrn_40_2 -> wrn_16_2, best epoch): teacher 76.46, scratch 73.64, SSKD 76.04. Its KD
number, 74.92, is CRD's: of the last epoch, with a teacher of 75.61. Independent reproductions of
the official code reached 75.6 to 75.8 with SSKD.
"""

from functools import partial

from ml_collections import ConfigDict

from configs import common, named
from configs.paper import paper

ARGUMENTS = {
    "method": "sskd",
    "teacher": "wrn_40_2",
    "student": "wrn_16_2",
    "weights": "code",
    "dataset": "cifar100",
}

EPOCHS = 240  # of teacher and student

COLOURS = {  # by dataset; CIFAR-100's for any other
    "cifar100": {"mean": (0.5071, 0.4866, 0.4409), "std": (0.2675, 0.2565, 0.2761)},
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2615)},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: method (or several), teacher, student, weights (code, eccv or arxiv), dataset."""
    return build(common.parse(arg, **ARGUMENTS))


def build(args: dict[str, str]) -> ConfigDict:
    """The config of these arguments."""
    names, teacher, student = args["method"], args["teacher"], args["student"]
    one = partial(named.method, pair=(teacher, student))
    config = named.chosen(names, args["weights"], one)
    config.update(common.RUN)
    config.data = data(args["dataset"])
    # The teacher's checkpoint may also be a .pth file.
    config.teacher = {"model": teacher, **common.OWN_PIXELS, **schedule(teacher)}
    config.update(named.own_stages(names, student))
    config.student = {"model": student, **common.OWN_PIXELS, **schedule(student)}
    for stage in ("teacher", "student"):
        config[stage].nesterov = named.nesterov(names, stage)
    config.paper = paper(names, args["dataset"], teacher, student)
    return config


def data(dataset: str) -> ConfigDict:
    """The section of the data, cifar100 or cifar10."""
    return ConfigDict(
        {
            "name": dataset,
            "data_dir": "",  # empty: TFDS_DATA_DIR, or else where tfds keeps its datasets
            "validation": 0.0,  # share of the training images on which the best epoch is chosen
            "flip": True,
            "pad": 4,
            **COLOURS.get(dataset, COLOURS["cifar100"]),
        }
    )


def schedule(model: str) -> dict[str, object]:
    """How a network, the teacher or the student, is trained."""
    rate = common.learning_rate(model)
    milestones = (150 / EPOCHS, 180 / EPOCHS, 210 / EPOCHS)
    return common.sgd(epochs=EPOCHS, milestones=milestones, learning_rate=rate)
