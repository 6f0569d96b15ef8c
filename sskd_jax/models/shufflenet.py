"""ShuffleNet V1 (Zhang et al. 2018) and V2 (Ma et al. 2018) for 32x32 images."""

from functools import partial

from flax import linen as nn
from jax import numpy as jnp

from sskd_jax.layers.initializers import fan_out_normal
from sskd_jax.layers.pooling import halved
from sskd_jax.models.network import (
    Initializers,
    Layer,
    Layers,
    Network,
    Pair,
    Part,
    bias_zeros,
    in_sequence,
    norm_and_relu,
    strides,
)
from sskd_jax.types import Array

GROUPS = 3  # of ShuffleNet V1's 1x1 convolutions


def shuffle(x: Array, groups: int) -> Array:
    """Interleaves the channels of x [..., C]: the first of every group, then the second, ..."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return split.swapaxes(-1, -2).reshape(x.shape)


def stem(layers: Layers, image: Array) -> Pair:
    """A 1x1 convolution to 24 channels, batch norm and ReLU."""
    x = layers.conv(24, 1, name="conv1")(image)
    x = nn.relu(layers.norm(name="bn1")(x))
    return x, x


class BlockV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1 convolutions.

    At stride 2 the pooled input is concatenated; at stride 1 the input is added.
    """

    width: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        width = self.width - x.shape[-1] if self.stride == 2 else self.width
        hidden = width // 4
        groups = 1 if x.shape[-1] == 24 else GROUPS  # the stem's 24 channels are too few
        out = self.conv(hidden, 1, groups=groups, name="conv1")(x)
        out = nn.relu(self.norm(name="bn1")(out))
        out = shuffle(out, groups)
        out = self.conv(hidden, 3, self.stride, groups=hidden, name="conv2")(out)
        out = nn.relu(self.norm(name="bn2")(out))
        out = self.conv(width, 1, groups=GROUPS, name="conv3")(out)
        out = self.norm(name="bn3")(out)
        if self.stride == 2:
            preact = jnp.concatenate([out, halved(x)], -1)
        else:
            preact = out + x
        return nn.relu(preact), preact


class ShuffleNetV1(Network):
    """Three stages of 4, 8 and 4 blocks in three groups."""

    classifier = "linear"
    branch_initializers = Initializers(kernel=fan_out_normal, bias=bias_zeros)

    @nn.nowrap
    def stem(self, layers: Layers, image: Array) -> Pair:
        return stem(layers, image)

    @nn.nowrap
    def stage(self, number: int, halve: bool = True) -> list[Part]:
        depth, width = ((4, 240), (8, 480), (4, 960))[number - 1]
        stride = 2 if halve else 1
        blocks = [partial(BlockV1, width, each) for each in strides(stride, depth)]
        return [Part(f"layer{number}", in_sequence(blocks))]


class DownBlock(nn.Module):
    """Two paths of width / 2 at the same stride, whose channels are shuffled together."""

    width: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        half, channels = self.width // 2, x.shape[-1]
        left = self.conv(channels, 3, self.stride, groups=channels, name="conv1")(x)
        left = self.norm(name="bn1")(left)
        left = self.conv(half, 1, name="conv2")(left)
        left = nn.relu(self.norm(name="bn2")(left))
        right = self.conv(half, 1, name="conv3")(x)
        right = nn.relu(self.norm(name="bn3")(right))
        right = self.conv(half, 3, self.stride, groups=half, name="conv4")(right)
        right = self.norm(name="bn4")(right)
        right = self.conv(half, 1, name="conv5")(right)
        right = nn.relu(self.norm(name="bn5")(right))
        out = shuffle(jnp.concatenate([left, right], -1), 2)
        return out, out


class SplitBlock(nn.Module):
    """Transforms one half of the channels and shuffles it with the other."""

    width: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        half = self.width // 2
        kept, out = x[..., :half], x[..., half:]
        out = self.conv(half, 1, name="conv1")(out)
        out = nn.relu(self.norm(name="bn1")(out))
        out = self.conv(half, 3, groups=half, name="conv2")(out)
        out = self.norm(name="bn2")(out)
        out = self.conv(half, 1, name="conv3")(out)
        out = self.norm(name="bn3")(out)
        shuffled = shuffle(jnp.concatenate([kept, nn.relu(out)], -1), 2)
        return shuffled, jnp.concatenate([kept, out], -1)


def conv_1x1(width: int, layers: Layers, name: str, x: Array) -> Pair:
    """`Part.apply` of a 1x1 convolution."""
    x = layers.conv(width, 1, name=name)(x)
    return x, x


class ShuffleNetV2(Network):
    """Three stages of a DownBlock and 3, 7 and 3 SplitBlocks; 1x1 convolution to 1024 channels."""

    classifier = "linear"

    @nn.nowrap
    def stem(self, layers: Layers, image: Array) -> Pair:
        return stem(layers, image)

    @nn.nowrap
    def stage(self, number: int, halve: bool = True) -> list[Part]:
        split_blocks, width = ((3, 116), (7, 232), (3, 464))[number - 1]
        down = partial(DownBlock, width, 2 if halve else 1)
        blocks = [down, *[partial(SplitBlock, width)] * split_blocks]
        return [Part(f"layer{number}", in_sequence(blocks))]

    @nn.nowrap
    def neck(self) -> list[Part]:
        return [Part("conv2", partial(conv_1x1, 1024)), Part("bn2", norm_and_relu)]
