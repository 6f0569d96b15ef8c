"""The architectures, by the reference's names, and those for ImageNet by torchvision's.

MODELS[name](num_classes=100) is a linen module that returns `Outputs`.
"""

from collections.abc import Callable
from functools import partial

from flax import linen as nn

from sskd_jax.models.mobilenetv2 import MobileNetV2
from sskd_jax.models.network import Initializers
from sskd_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from sskd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from sskd_jax.models.vgg import VGG
from sskd_jax.models.wrn import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{6 * n + 2}": partial(ResNet, blocks=(n, n, n)) for n in (1, 2, 3, 5, 7, 9, 18)},
    **{
        f"resnet{6 * n + 2}x4": partial(ResNet, blocks=(n, n, n), widths=(32, 64, 128, 256))
        for n in (1, 5)
    },
    **{
        f"wrn_{depth}_{width}": partial(WideResNet, depth=depth, width=width)
        for depth in (16, 40)
        for width in (1, 2)
    },
    "vgg8": partial(VGG, blocks=(1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, blocks=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, blocks=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, blocks=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, blocks=(2, 2, 4, 4, 4)),
    "ResNet50": partial(
        ResNet,
        blocks=(3, 4, 6, 3),
        widths=(64, 64, 128, 256, 512),
        block=Bottleneck,
        skip="shortcut",
        classifier="linear",
    ),
    **{
        name: partial(
            ResNet, blocks=blocks, widths=(64, 64, 128, 256, 512), block=block, large=True
        )
        for name, blocks, block in (
            ("resnet18", (2, 2, 2, 2), BasicBlock),
            ("resnet34", (3, 4, 6, 3), BasicBlock),
            ("resnet50", (3, 4, 6, 3), Bottleneck),
        )
    },
    # The network of continual learning, and the same at a quarter of its width.
    **{
        name: partial(
            ResNet,
            blocks=(2, 2, 2, 2),
            widths=tuple(width * part for part in (1, 1, 2, 4, 8)),
            skip="shortcut",
            classifier="linear",
            classifier_bias=False,
            initializers=Initializers(),
        )
        for name, width in (("ResNet18", 64), ("ResNet18w16", 16))
    },
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleNetV1,
    "ShuffleV2": ShuffleNetV2,
    # HSAKD's mobilenetV2. Its stem has stride 1, so all maps are twice as large. The names and
    # shapes of its parameters are those of MobileNetV2: loading one's weights into the other gives
    # no error.
    "MobileNetV2s1": partial(MobileNetV2, stem_stride=1),
}
