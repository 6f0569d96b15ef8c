r"""The whole method in minutes on a laptop's CPU, without a download: scikit-learn's digits and small networks.

    python -m sskd_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

A teacher and its self-supervision head see all training images; three students, from the same weights and on the same
few labelled images, learn from the labels alone (scratch), with the teacher's predictions (kd), and with SSKD.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    common.parse(arg)
    config = ConfigDict()
    config.methods = ("scratch", "kd", "sskd")
    config.settings = {name: common.method(name) for name in common.NAMES}
    config.update(common.RUN)
    config.data = dict(
        name="digits",
        data_dir="",
        validation=0.0,
        flip=False,
        pad=1,
        mean=(0.31,) * 3,
        std=(0.38,) * 3,
    )
    config.teacher = dict(
        model="resnet20",
        checkpoint="",
        **common.sgd(epochs=12, milestones=(7, 9, 11), learning_rate=0.05),
    )
    for name in ("head", "warmup", "paraphraser"):
        config[name] = dict(
            checkpoint="", **common.sgd(epochs=6, milestones=(3, 5), learning_rate=0.05)
        )
    config.student = dict(
        model="resnet8",
        **common.sgd(
            epochs=40, milestones=(24, 30, 36), learning_rate=0.05, batch_size=32, fraction=0.1
        ),
    )
    return config
