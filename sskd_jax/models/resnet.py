"""Residual networks (He et al. 2016) for images of 32x32 pixels, and ImageNet's for 224x224."""

from collections.abc import Sequence
from functools import partial

from flax import linen as nn
from jax import numpy as jnp

from sskd_jax.layers.initializers import fan_out_normal
from sskd_jax.models.network import (
    Initializers,
    Layer,
    Layers,
    Network,
    Pair,
    Part,
    bias_zeros,
    in_sequence,
    strides,
)
from sskd_jax.types import Array


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection; returns (relu(sum), sum)."""

    width: int
    stride: int
    conv: Layer
    norm: Layer
    skip: str = "downsample"
    expansion = 1

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        out = self.conv(self.width, 3, self.stride, name="conv1")(x)
        out = nn.relu(self.norm(name="bn1")(out))
        out = self.conv(self.width, name="conv2")(out)
        out = self.norm(name="bn2")(out)
        return self.join(x, out)

    def join(self, x: Array, out: Array) -> Pair:
        """The sum of the convolutions' output and the block's input, projected if needed."""
        if self.stride != 1 or x.shape != out.shape:
            x = self.conv(out.shape[-1], 1, self.stride, name=f"{self.skip}.0")(x)
            x = self.norm(name=f"{self.skip}.1")(x)
        preact = out + x
        return nn.relu(preact), preact


class Bottleneck(BasicBlock):
    """1x1, 3x3 and 1x1 convolutions, of which the last is four times as wide."""

    expansion = 4

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        out = self.conv(self.width, 1, name="conv1")(x)
        out = nn.relu(self.norm(name="bn1")(out))
        out = self.conv(self.width, 3, self.stride, name="conv2")(out)
        out = nn.relu(self.norm(name="bn2")(out))
        out = self.conv(self.expansion * self.width, 1, name="conv3")(out)
        out = self.norm(name="bn3")(out)
        return self.join(x, out)


class ResNet(Network):
    """Stages of residual blocks, each after the first at half the resolution.

    Attributes:
      blocks: number of blocks in every stage.
      widths: width of the stem, then of every stage.
      skip: name of the projection on a skip connection, which differs between the reference's
        files.
      classifier: name of the last layer, likewise.
      classifier_bias: whether that has a bias.
      large: ImageNet's stem, a 7x7 convolution of stride 2 and max-pooling, instead of a 3x3
        convolution.
      initializers: of its layers.
    """

    blocks: Sequence[int] = (3, 3, 3)
    widths: Sequence[int] = (16, 16, 32, 64)
    block: type[BasicBlock] = BasicBlock
    skip: str = "downsample"
    classifier: str = "fc"
    classifier_bias: bool = True
    large: bool = False
    initializers: Initializers = Initializers(kernel=fan_out_normal)

    @property
    def branch_initializers(self) -> Initializers:
        """Linear biases of 0 for the thin networks, as in their file of the reference alone."""
        thin = self.block is BasicBlock and not self.large
        return Initializers(fan_out_normal, bias=bias_zeros) if thin else self.initializers

    @property
    def stages(self) -> int:
        return len(self.blocks)

    @nn.nowrap
    def stem(self, layers: Layers, image: Array) -> Pair:
        kernel, stride = (7, 2) if self.large else (3, 1)
        x = layers.conv(self.widths[0], kernel, stride, name="conv1")(image)
        x = nn.relu(layers.norm(name="bn1")(x))
        if self.large:
            # Padded in a separate step, as converters to ONNX ignore a pooling's numeric padding.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        return x, x

    @nn.nowrap
    def stage(self, number: int, halve: bool = True) -> list[Part]:
        depth, width = self.blocks[number - 1], self.widths[number]
        stride = 2 if halve and number > 1 else 1
        block = partial(self.block, width, skip=self.skip)
        blocks = [partial(block, stride=each) for each in strides(stride, depth)]
        return [Part(f"layer{number}", in_sequence(blocks))]
