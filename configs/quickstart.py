r"""The whole method in minutes on a laptop's CPU, without a download: small networks on digits.

    python -m sskd_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -m sskd_jax.main --config=configs/quickstart.py:method=kd,at+kd,sskd

A teacher and its self-supervision head see all training images of scikit-learn's digits. Three
students, with the same first weights and the same few labelled images, learn from the labels alone
(scratch), with the teacher's predictions (kd), and with SSKD. All of this is done with three seeds,
because with a single seed, chance may outweigh the differences between the methods.
"""

from ml_collections import ConfigDict

from configs import cifar, common, methods, named

STUDENT = "resnet8"


def get_config(arg: str | None = None) -> ConfigDict:
    """Argument: method (or several). It also has the settings of all others, for `methods`."""
    chosen = common.parse(arg, method="scratch,kd,sskd")["method"].split(",")
    names = dict.fromkeys((*methods.NAMES, *chosen))
    config = ConfigDict(
        {
            "methods": tuple(map(named.key_of, chosen)),
            "settings": {named.key_of(name): named.method(name) for name in names},
        }
    )
    config.update(common.RUN | {"seeds": 3})
    config.data = {
        "name": "digits",
        "data_dir": "",
        "validation": 0.0,
        "flip": False,
        "pad": 1,
        "mean": (0.31,) * 3,
        "std": (0.38,) * 3,
    }
    teacher = common.sgd(epochs=12, milestones=(7 / 12, 9 / 12, 11 / 12), learning_rate=0.05)
    config.teacher = {"model": "resnet20", **common.OWN_PIXELS, **teacher}
    own = common.sgd(epochs=6, milestones=(3 / 6, 5 / 6), learning_rate=0.05)
    for name in (*names, *chosen):  # where two have a stage of one name, the chosen one's counts
        for kind, usual in named.entry_of(name).stages(STUDENT).items():
            config[kind] = usual | own
    student = common.sgd(
        epochs=40, milestones=(0.6, 0.75, 0.9), learning_rate=0.05, batch_size=32, share=0.1
    )
    config.student = {"model": STUDENT, **common.OWN_PIXELS, **student}
    share = config.student.images.get_ref("share")
    for name in names:  # without a teacher, no stage sees more than the student
        kinds = set(named.stages_of(config.settings[named.key_of(name)].method))
        if "teacher" not in kinds:
            for kind in kinds - {"student"}:
                config[kind].images.share = share
    common.scale_counted(config, cifar.EPOCHS, config.student.get_ref("epochs"))
    return config
