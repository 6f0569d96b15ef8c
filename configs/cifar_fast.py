r"""CIFAR-100 in minutes of a GPU: cifar.py's student in a quarter of the epochs, in one cycle.

    python -m sskd_jax.main --config=configs/cifar_fast.py --config.teacher.checkpoint=runs/sskd \
        --workdir=runs/fast
    python -m sskd_jax.main --config=configs/cifar_fast.py:epochs=30,batch=512
    python -m experiments.record runs/fast

Its batches are larger. The rate rises over a fifth of the epochs to cifar.py's, scaled by the batch
(Goyal et al. 2017), and falls to nothing over the rest (Smith and Topin 2018). Not tuned: neither
the time it takes on a GPU nor its accuracy is known yet. The last command keeps the run, and
`python -m experiments.report` draws accuracies against cost.
"""

from ml_collections import ConfigDict

from configs import cifar, common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: epochs and batch of the student, and those of cifar.py."""
    args = common.parse(arg, epochs="60", batch="256", **cifar.ARGUMENTS)
    epochs, batch = (common.whole(args[key], key) for key in ("epochs", "batch"))
    config = cifar.build(args)
    config.student.update(
        epochs=epochs,
        batch_size=batch,
        milestones=(),
        warmup_epochs=0.2 * epochs,
        cooldown_epochs=0.8 * epochs,
        learning_rate=config.student.learning_rate * batch / 64,
    )
    return config
