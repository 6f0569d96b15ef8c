r"""CIFAR with a long tail: SSD-LT and what it is compared with, all under one augmentation.

    python -m sskd_jax.main --config=configs/long_tail.py --workdir=runs/long_tail
    python -m sskd_jax.main --config=configs/long_tail.py:method=ldam,student=resnet20,imbalance=10
    python -m sskd_jax.main --config=configs/long_tail.py:dataset=cifar10,epochs=60

The images are those of LDAM's code (Cao et al. 2019) with `seed` 0. The authors of SSD-LT released
the numbers of ImageNet-LT alone, and of CIFAR neither code nor numbers; epochs, batch, queue,
rates and augmentation are therefore ours. Expect (published, ResNet-32, CIFAR-100, imbalance 100):
SSD-LT 46.0. It has not been run here in full length.
"""

from ml_collections import ConfigDict

from configs import cifar, common, methods
from sskd_jax.types import choose

# What is compared: a method of the registry with other numbers.
COMPARED = {
    "ce": ("logit_adjustment", {"strength": 0.0}),
    "balanced_softmax": ("logit_adjustment", {"strength": 1.0}),
    "ldam": ("ldam", {}),
    "crt": ("decoupled", {"rescale": False}),
    "lws": ("decoupled", {"rescale": True}),
    "ssd_lt": ("ssd_lt", {}),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: method, or several; student, dataset, imbalance, and epochs of the long stages."""
    args = common.parse(
        arg,
        method=",".join(COMPARED),
        student="resnet32",
        dataset="cifar100",
        imbalance="100",
        epochs="200",
    )
    epochs = common.whole(args["epochs"], "epochs")
    settings = {name: compared(name, epochs) for name in args["method"].split(",")}
    config = ConfigDict({"methods": tuple(settings), "settings": settings})
    config.update(common.RUN)
    config.data = cifar.get_config(f"dataset={args['dataset']}").data
    config.student = {"model": args["student"], **network(epochs)}
    used = ",".join(setting.method.name for setting in settings.values())
    own = methods.own_stages(used, args["student"])
    for name, schedule in own.items():  # SSD-LT's features are a network of their own
        config[name] = network(epochs) if name == "features" else schedule
    for name in ("student", *own):
        imbalance = float(common.whole(args["imbalance"], "imbalance"))
        config[name].images = {"share": 1.0, "noise": 0.0, "imbalance": imbalance}
    return config


def compared(name: str, epochs: int) -> ConfigDict:
    """A method with its numbers and weights."""
    base, numbers = choose(COMPARED, name, "method")
    config = methods.method(base)
    config.method.update(numbers)
    if "deferred_epochs" in config.method:  # LDAM-DRW re-weights the last fifth of its epochs
        config.method.deferred_epochs = epochs * 4 // 5
    return config


def network(epochs: int) -> dict[str, object]:
    """A network's training."""
    return common.sgd(
        epochs=epochs,
        milestones=(),
        learning_rate=0.1,
        batch_size=128,
        warmup_epochs=min(5.0, epochs / 40),
        cosine=True,
    )
