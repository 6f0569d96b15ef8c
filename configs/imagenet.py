r"""ImageNet, ResNet-34 -> ResNet-18: teacher (90 epochs, or torchvision's weights), head (24), student (90).

    python -m sskd_jax.main --config=configs/imagenet.py --config.teacher.checkpoint=resnet34.pth
    python -m sskd_jax.main --config=configs/imagenet.py:method=kd,batch=1024 --config.teacher.checkpoint=resnet34.pth
    python -m sskd_jax.main --config=configs/imagenet.py:dataset=flowers --config.data.data_dir=DIR

Expect (published, ResNet-34 -> ResNet-18, top-1): teacher 73.31, scratch 69.75, KD 70.66, AT 70.70, CRD 71.17, SSKD
71.62; the one public attempt at SSKD reached 70.09. None of it has been run here yet.

The authors released no ImageNet code. They named PyTorch's ImageNet example for the rest: batch 256, learning rate .1,
momentum .9, weight decay 1e-4, 90 epochs, a tenth every 30. What they did not name is marked "silent".
"""

from functools import partial

from ml_collections import ConfigDict

from configs import common

# Where a method's released settings for this pair differ from its CIFAR-100 ones: KD's, DKD's and ReviewKD's are
# mdistiller's, DIST's its paper's.
NUMBERS = {
    "kd": {"temperature": 1.0},
    "dkd": {"temperature": 1.0, "warmup_epochs": 1},
    "dist": {"temperature": 1.0},
    "reviewkd": {"warmup_epochs": 1},
}
WEIGHTS = {
    "kd": {"ce": 0.5, "kd": 0.5},
    "dkd": {"nckd": 0.5},
    "dist": {"inter": 1.0, "intra": 1.0},
    "reviewkd": {"review": 1.0},
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: method, or several; teacher, student, weights (silent: the CIFAR-100 code's), dataset, batch."""
    args = common.parse(
        arg,
        method="sskd",
        teacher="resnet34",
        student="resnet18",
        weights="code",
        dataset="imagenet2012",
        batch="256",
    )
    config = common.methods(args["method"], partial(method, preset=args["weights"]))
    config.update(common.RUN)
    config.data = dict(
        name=args["dataset"],  # any dataset of tfds with JPEG images and one label
        data_dir="",  # empty: TFDS_DATA_DIR, or else where tfds keeps its datasets
        test_split="validation",
        validation=0.0,  # share of the training images to choose the best epoch on, instead of the test images
        size=224,
        resize=256,  # of the shorter side of a test image, before its centre is cut out
        scale=(0.08, 1.0),  # of a random crop, in shares of the image
        ratio=(3 / 4, 4 / 3),  # of a random crop, width over height
        flip=True,
        pad=0,  # silent: the rotations show one crop; above 0, each is moved by up to so many pixels, as on CIFAR-100
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.teacher = dict(
        model=args["teacher"],
        checkpoint="",  # torchvision's .pth, or a workdir of ours
        **stage(args["batch"], epochs=90, milestones=(30, 60)),
    )
    # Silent: how long the head is trained, and methods' other stages. As on CIFAR-100, the head takes a quarter of the
    # student's epochs, with drops at a half and at three quarters, and the others an eighth.
    config.head = dict(checkpoint="", **stage(args["batch"], epochs=24, milestones=(12, 18)))
    for name in ("warmup", "paraphraser"):
        config[name] = dict(checkpoint="", **stage(args["batch"], epochs=12, milestones=()))
    config.student = dict(
        model=args["student"], **stage(args["batch"], epochs=90, milestones=(30, 60))
    )
    if args["dataset"] == "imagenet2012":
        config.paper = common.paper(args["method"], args["teacher"], args["student"])
    return config


def method(name: str, preset: str) -> ConfigDict:
    config = common.method(name, preset)
    config.method.update(NUMBERS.get(config.method.name, {}))
    config.weights.update(WEIGHTS.get(config.method.name, {}))
    return config


def stage(batch: str, **schedule: object) -> dict[str, object]:
    """One stage's training. The rate is .1 per 256 images, and larger batches get five epochs to rise to theirs."""
    size = common.whole(batch, "batch")
    return common.sgd(
        batch_size=size,
        learning_rate=0.1 * size / 256,
        warmup_epochs=5.0 if size > 256 else 0.0,
        weight_decay=1e-4,
        **schedule,
    )
