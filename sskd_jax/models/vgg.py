"""VGG with batch norm (Simonyan and Zisserman 2015) for 32x32 images."""

from collections.abc import Sequence
from functools import partial

from flax import linen as nn
from flax.linen import initializers as init

from sskd_jax.layers.initializers import fan_out_normal
from sskd_jax.models.network import (
    Initializers,
    Layers,
    Network,
    Pair,
    Part,
    apply_parts,
    bias_zeros,
)
from sskd_jax.types import Array

WIDTHS = (64, 128, 256, 512, 512)  # of the five blocks


def convolutions(depth: int, width: int, layers: Layers, name: str, x: Array) -> Pair:
    """3x3 convolutions, each with batch norm and ReLU, except for the last ReLU."""
    for i in range(depth):
        # PyTorch numbers convolution, batch norm and ReLU in one sequence: 0, 1, 2, 3, ...
        x = nn.relu(x) if i else x
        bias = layers.bias(9 * x.shape[-1])
        x = layers.conv(width, bias_init=bias, name=f"{name}.{3 * i}")(x)
        x = layers.norm(name=f"{name}.{3 * i + 1}")(x)
    return x, x


def halve_by_max(layers: Layers, name: str, x: Array) -> Pair:
    """Max-pooling of 2x2 pixels."""
    x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
    return x, x


def halve_large(layers: Layers, name: str, x: Array) -> Pair:
    """Max-pooling of maps of at least 8x8, which images of at least 64 pixels have here."""
    return halve_by_max(layers, name, x) if x.shape[1] >= 8 else (x, x)


def relu(layers: Layers, name: str, x: Array) -> Pair:
    """`Part.apply` of a ReLU."""
    return nn.relu(x), x


class VGG(Network):
    """Five blocks of 3x3 convolutions: block 0 is the stem, 1 to 4 are the stages.

    Max-pooling comes before each of the first three stages and, for images of at least 64 pixels,
    before the fourth. As in the reference, branches have no fourth pooling.

    Attributes:
      blocks: number of convolutions in every block.
    """

    blocks: Sequence[int] = (1, 1, 1, 1, 1)

    classifier = "classifier"
    stages = 4
    initializers = Initializers(fan_out_normal, init.normal(0.01), bias_zeros)
    taps = (0, 1, 2, 4)

    @nn.nowrap
    def block(self, number: int) -> list[Part]:
        """A block of convolutions and its last ReLU, which counts as a part in the branches."""
        apply = partial(convolutions, self.blocks[number], WIDTHS[number])
        return [Part(f"block{number}", apply), Part("", relu)]

    @nn.nowrap
    def stem(self, layers: Layers, image: Array) -> Pair:
        """The first map; as in the reference, it is its own pre-activation, though after a ReLU."""
        x, _ = apply_parts(self.block(0), layers, image)
        return x, x

    @nn.nowrap
    def stage(self, number: int, halve: bool = True) -> list[Part]:
        pool = [Part("", halve_by_max)] if halve and number <= 3 else []
        return [*pool, *self.block(number)]

    @nn.nowrap
    def trunk(self, number: int) -> list[Part]:
        pool = [Part("", halve_large)] if number == 4 else []
        return [*pool, *self.stage(number)]
