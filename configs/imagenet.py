r"""ImageNet, ResNet-34 -> ResNet-18: teacher (90 epochs), self-supervision head (24), student (90).

    python -m sskd_jax.main --config=configs/imagenet.py --config.teacher.checkpoint=resnet34.pth
    python -m sskd_jax.main --config=configs/imagenet.py:method=kd,epochs=100,batch=1024
    python -m sskd_jax.main --config=configs/imagenet.py:dataset=flowers --workdir=runs/flowers \
        --config.data.data_dir=DIR --config.teacher.start_from=resnet34.pth

Expect (published, ResNet-34 -> ResNet-18, top-1 of the best epoch): teacher 73.31, scratch 69.75,
SSKD 71.62; the one public attempt at SSKD reached 70.09. In 100 epochs: KD 71.03, KD+LS 71.45 (last
epoch: 71.26), DKD 71.70, DIST 72.07, DOT 71.72. None of it has been run here yet.

The authors released no ImageNet code. For the rest they refer to PyTorch's ImageNet example: batch
256, learning rate .1, divided by 10 every 30 epochs, momentum .9, weight decay 1e-4, 90 epochs.
What they did not specify is marked "silent". Most later papers train the student for 100 epochs
(epochs=100), CTKD for 120. With fewer than 90, the rate falls after each third of them.
"""

from ml_collections import ConfigDict

from configs import common, named
from configs.paper import paper


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: method (or several), teacher, student, weights, dataset, batch, epochs.

    Silent: the weights, "code". `epochs` are the student's.
    """
    args = common.parse(
        arg,
        method="sskd",
        teacher="resnet34",
        student="resnet18",
        weights="code",
        dataset="imagenet2012",
        batch="256",
        epochs="90",
    )
    names, teacher, student = args["method"], args["teacher"], args["student"]
    batch, epochs = common.whole(args["batch"], "batch"), common.whole(args["epochs"], "epochs")
    config = named.chosen(names, args["weights"], named.imagenet_method)
    config.update(common.RUN)
    config.data = data(args["dataset"])
    # The teacher's checkpoint may be torchvision's .pth.
    config.teacher = {
        "model": teacher,
        **common.OWN_PIXELS,
        **stage(batch, epochs=90, milestones=(30 / 90, 60 / 90)),
    }
    # Silent: how long the head and other stages of methods are trained. As on CIFAR-100, the head
    # has about a quarter of 90 epochs, with drops at a half and at three quarters, and the others
    # about an eighth. The released schedules of SSD-LT, cRT and LWS are in configs/long_tail.py.
    spread = max(epochs, 90)  # fewer epochs: the 90-epoch schedule, scaled
    long = {"epochs": epochs, "milestones": tuple(n / spread for n in range(30, spread, 30))}
    own = {
        "head": {"epochs": 24, "milestones": (12 / 24, 18 / 24)},
        # HSAKD's, as released.
        "branches": {"epochs": 100, "milestones": (0.3, 0.6, 0.9)},
        "features": long,  # SSD-LT's: a whole network, like the student
    }
    for name, usual in named.own_stages(names, student).items():
        changes = own.get(name, {"epochs": 12, "milestones": ()})
        config[name] = usual | stage(batch, **changes)
    config.student = {"model": student, **common.OWN_PIXELS, **stage(batch, **long)}
    config.paper = paper(names, args["dataset"], teacher, student)
    return config


def data(dataset: str) -> ConfigDict:
    """The section of the data: any dataset of tfds with JPEG images and one label."""
    section = ConfigDict(
        {
            "name": dataset,
            "data_dir": "",  # empty: TFDS_DATA_DIR, or else where tfds keeps its datasets
            "test_split": "validation",
            "validation": 0.0,  # share of the training images on which the best epoch is chosen
            "size": 224,
            "scale": (0.08, 1.0),  # of a random crop, as shares of the image's area
            "ratio": (3 / 4, 4 / 3),  # of a random crop, width over height
            "flip": True,
            # Silent: with 0, all rotations show the same crop; with more, each is shifted by up to
            # so many pixels, as on CIFAR-100.
            "pad": 0,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        }
    )
    # Of the shorter side of a test image, before its centre is cut out: 256 for 224.
    section.resize = section.get_ref("size") * 8 // 7
    return section


def stage(batch: int, **schedule: object) -> dict[str, object]:
    """The training of a stage.

    The learning rate is .1 per 256 images of a batch; with larger batches, it rises to its value
    over the first five epochs.
    """
    return common.sgd(
        batch_size=batch,
        learning_rate=0.1 * batch / 256,
        warmup_epochs=5.0 if batch > 256 else 0.0,
        weight_decay=1e-4,
        **schedule,
    )
