r"""CIFAR-100 as in the paper: teacher (240 epochs), self-supervision head (60), student (240).

    python -m sskd_jax.main --config=configs/cifar.py --workdir=runs/sskd
    python -m sskd_jax.main --config=configs/cifar.py:method=kd,teacher=vgg13,student=MobileNetV2 --workdir=runs/kd
    python -m sskd_jax.main --config=configs/cifar.py:method=scratch,kd,sskd --workdir=runs/table
    python -m sskd_jax.main --config=configs/cifar.py:weights=eccv --config.teacher.checkpoint=runs/sskd

Expect (paper, wrn_40_2 -> wrn_16_2, best epoch): teacher 76.46, scratch 73.64, KD 74.92, SSKD 76.04. Independent
reproductions of the official code reached 75.6 to 75.8 with SSKD.
"""

from functools import partial

from ml_collections import ConfigDict

from configs import common

ARGUMENTS = dict(
    method="sskd", teacher="wrn_40_2", student="wrn_16_2", weights="code", dataset="cifar100"
)


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: method, or several; teacher, student, weights (code, eccv or arxiv), dataset (cifar100 or cifar10)."""
    return build(common.parse(arg, **ARGUMENTS))


def build(args: dict[str, str]) -> ConfigDict:
    """The config of these arguments."""
    config = common.methods(
        args["method"],
        partial(common.method, preset=args["weights"], pair=(args["teacher"], args["student"])),
    )
    config.update(common.RUN)
    config.data = dict(
        name=args["dataset"],
        data_dir="",  # empty: TFDS_DATA_DIR, or else where tfds keeps its datasets
        validation=0.0,  # share of the training images to choose the best epoch on, instead of the test images
        flip=True,
        pad=4,
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2675, 0.2565, 0.2761),
    )
    schedule = dict(epochs=240, milestones=(150, 180, 210))
    config.teacher = dict(
        model=args["teacher"],
        checkpoint="",  # a workdir of ours or a .pth file with a trained teacher
        **common.sgd(learning_rate=common.learning_rate(args["teacher"]), **schedule),
    )
    config.update(common.own_stages(args["student"]))
    config.student = dict(
        model=args["student"],
        **common.sgd(learning_rate=common.learning_rate(args["student"]), **schedule),
    )
    if args["dataset"] == "cifar100":
        config.paper = common.paper(args["method"], args["teacher"], args["student"])
    return config
