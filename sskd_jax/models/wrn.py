"""Wide residual networks (Zagoruyko and Komodakis 2016), pre-activation."""

from collections.abc import Sequence
from functools import partial

from flax import linen as nn

from sskd_jax.layers.initializers import fan_out_normal
from sskd_jax.models.network import (
    Initializers,
    Layer,
    Layers,
    Network,
    Pair,
    Part,
    bias_zeros,
    norm_and_relu,
    strides,
)
from sskd_jax.types import Array


class Block(nn.Module):
    """Batch norm, ReLU and convolution, twice, and a skip connection.

    If the skip connection projects, it starts after the first ReLU. Returns the sum and the first
    batch norm's output, which counts as the pre-activation of the block before it.
    """

    width: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        preact = self.norm(name="bn1")(x)
        active = nn.relu(preact)
        out = self.conv(self.width, 3, self.stride, name="conv1")(active)
        out = nn.relu(self.norm(name="bn2")(out))
        out = self.conv(self.width, name="conv2")(out)
        if x.shape[-1] != self.width:
            x = self.conv(self.width, 1, self.stride, name="convShortcut")(active)
        return x + out, preact


def apply_blocks(width: int, steps: Sequence[int], layers: Layers, name: str, x: Array) -> Pair:
    """The last block's sum, and the output of the first batch norm in the first block."""
    preacts = []
    for i, stride in enumerate(steps):
        block = Block(width, stride, layers.conv, layers.norm, name=f"{name}.layer.{i}")
        x, preact = block(x)
        preacts.append(preact)
    return x, preacts[0]


class WideResNet(Network):
    """Three stages of (depth - 4) / 6 blocks.

    As in the reference, the maps of the stem and of the stages are the raw sums: their batch norm
    and ReLU belong to the next stage, or to the neck.
    """

    depth: int = 16
    width: int = 1

    initializers = Initializers(kernel=fan_out_normal, bias=bias_zeros)
    branch_initializers = initializers

    @nn.nowrap
    def stem(self, layers: Layers, image: Array) -> Pair:
        x = layers.conv(16, name="conv1")(image)
        return x, x

    @nn.nowrap
    def stage(self, number: int, halve: bool = True) -> list[Part]:
        width = 16 * self.width * 2 ** (number - 1)
        depth = (self.depth - 4) // 6
        stride = 2 if halve and number > 1 else 1
        return [Part(f"block{number}", partial(apply_blocks, width, strides(stride, depth)))]

    @nn.nowrap
    def neck(self) -> list[Part]:
        return [Part("bn1", norm_and_relu, "bn{branch}")]

    @nn.nowrap
    def preactivations(self, preacts: list[Array]) -> list[Array]:
        """The maps' pre-activations: stages 2 and 3 and the neck compute those of stages 1 to 3."""
        stem, _, *after = preacts
        return [stem, *after]
