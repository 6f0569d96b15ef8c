r"""Long tails: SSD-LT and the methods to compare with it, on CIFAR or on ImageNet-LT.

    python -m sskd_jax.main --config=configs/long_tail.py --workdir=runs/long_tail
    python -m sskd_jax.main --config=configs/long_tail.py:method=ldam,student=resnet20,imbalance=10
    python -m sskd_jax.main --config=configs/long_tail.py:dataset=cifar10,epochs=60
    python -m sskd_jax.main --config=configs/long_tail.py:dataset=imagenet_lt,method=ssd_lt

CIFAR's images are those of LDAM's code (Cao et al. 2019) with `seed` 0. The authors of SSD-LT
released hyperparameters for ImageNet-LT alone, and neither code nor hyperparameters for CIFAR. So
CIFAR's epochs, batch, queue, rates and augmentation, the same for all methods, are our choice.
Expect (published): CIFAR-100, imbalance 100, ResNet-32, SSD-LT 46.0; ImageNet-LT, ResNeXt-50,
SSD-LT 55.4, its classifier for labels 51.6. Nothing of this has been run here at full length.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import cifar, common, imagenet, named
from sskd_jax.types import choose

# The names to compare: each is a method of the registry with other numbers.
COMPARED = {
    "ce": ("logit_adjustment", {"strength": 0.0}),
    "balanced_softmax": ("logit_adjustment", {"strength": 1.0}),
    "ldam": ("ldam", {}),
    "crt": ("decoupled", {"rescale": False}),
    "lws": ("decoupled", {"rescale": True}),
    "ssd_lt": ("ssd_lt", {}),
}


class Source(NamedTuple):
    """The settings that depend on the dataset.

    Attributes:
      data: name of a dataset -> its section of the config.
      method: name of a method -> its numbers and weights.
      counted: the student's epochs for which these numbers are; LDAM defers four fifths of them.
      student, epochs, imbalance: the defaults of these arguments, as they are typed.
      network: arguments of `sgd` for the training of a network.
      stages: what differs for shorter stages, by name.
    """

    data: Callable[[str], ConfigDict]
    method: Callable[[str], ConfigDict]
    counted: int
    student: str
    epochs: str
    imbalance: str
    network: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]] = {}


CIFAR = Source(
    data=cifar.data,
    method=named.method,
    counted=200,
    student="resnet32",
    epochs="200",
    imbalance="100",
    network={"batch_size": 128},
)
IMAGENET_LT = Source(
    data=imagenet.data,
    method=named.imagenet_method,
    counted=90,
    student="resnet50",
    epochs="135",
    imbalance="1",  # the images have the long tail when they are prepared
    network={"batch_size": 256, "warmup_epochs": 0.0},
    stages={
        "scales": {"epochs": 5, "batch_size": 512},
        # cRT's; LWS has 5 epochs.
        "classifier": {"epochs": 10, "batch_size": 512, "learning_rate": 0.2},
    },
)
SOURCES = {"cifar100": CIFAR, "cifar10": CIFAR, "imagenet_lt": IMAGENET_LT}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: method (or several), student, dataset, imbalance, epochs (of the long stages)."""
    every = ",".join(COMPARED)
    args = common.parse(arg, method=every, student="", dataset="cifar100", imbalance="", epochs="")
    source = choose(SOURCES, args["dataset"], "dataset")
    student = args["student"] or source.student
    epochs = common.whole(args["epochs"] or source.epochs, "epochs")
    imbalance = common.whole(args["imbalance"] or source.imbalance, "imbalance")
    settings = {name: compared(name, source.method) for name in args["method"].split(",")}
    config = ConfigDict({"methods": tuple(settings), "settings": settings})
    config.update(common.RUN)
    config.data = source.data(args["dataset"])
    config.student = {"model": student, **common.OWN_PIXELS, **network(epochs, source)}
    used = ",".join(setting.method.name for setting in settings.values())
    own = named.own_stages(used, student)
    for name, schedule in own.items():  # SSD-LT's stage `features` trains a whole network
        changes = source.stages.get(name, {})
        config[name] = network(epochs, source) if name == "features" else schedule | changes
    for name in ("student", *own):
        config[name].images.imbalance = float(imbalance)
    common.scale_counted(config, source.counted, config.student.get_ref("epochs"))
    return config


def compared(name: str, method: Callable[[str], ConfigDict]) -> ConfigDict:
    """A method with its numbers and weights."""
    base, numbers = choose(COMPARED, name, "method")
    config = method(base)
    config.method.update(numbers)
    return config


def network(epochs: int, source: Source) -> dict[str, object]:
    """The training of a whole network."""
    schedule = {"warmup_epochs": min(5.0, epochs / 40), **source.network}
    return common.sgd(epochs=epochs, milestones=(), learning_rate=0.1, cosine=True, **schedule)
