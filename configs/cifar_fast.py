r"""CIFAR-100 in minutes on a GPU: cifar.py's student in a quarter of the epochs, in one cycle.

    python -m sskd_jax.main --config=configs/cifar_fast.py --config.teacher.checkpoint=runs/sskd \
        --workdir=runs/fast
    python -m sskd_jax.main --config=configs/cifar_fast.py:epochs=30,batch=512
    python -m experiments.record runs/fast

Its batches are larger. Over a fifth of the epochs the learning rate rises to that of cifar.py,
scaled by the batch size (Goyal et al. 2017), and over the rest it falls towards 0 (Smith and Topin
2018). What a method counts in epochs, such as DKD's warm-up, keeps its share of them, rounded up.
It is not tuned: neither its time on a GPU nor its accuracy is known yet. The last command records
the run, and `python -m experiments.report` plots accuracies against cost.
"""

from ml_collections import ConfigDict

from configs import cifar, common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: epochs and batch of the student, and all arguments of cifar.py."""
    args = common.parse(arg, epochs="60", batch="256", **cifar.ARGUMENTS)
    epochs, batch = (common.whole(args[key], key) for key in ("epochs", "batch"))
    config = cifar.build(args)
    config.student.update(
        epochs=epochs,
        batch_size=batch,
        milestones=(),
        warmup_epochs=0.2 * epochs,
        cooldown_epochs=0.8 * epochs,
        learning_rate=config.student.learning_rate * batch / config.student.batch_size,
    )
    common.scale_counted(config, cifar.EPOCHS, config.student.get_ref("epochs"))
    return config
