"""MobileNetV2 (Sandler et al. 2018) at half width for 32x32 images."""

from functools import partial

from flax import linen as nn
from flax.linen import initializers as init

from sskd_jax.layers.initializers import fan_out_normal
from sskd_jax.models.network import (
    Apply,
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

WIDTH = 0.5  # factor of all widths but the neck's

# The groups of blocks of every stage: expansion, width, number of blocks, stride of the first. The
# second group has stride 1 where ImageNet's has 2.
STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise 3x3, project by 1x1 without a ReLU; skip if the shapes allow it."""

    width: int
    stride: int
    expansion: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> Pair:
        hidden = self.expansion * x.shape[-1]
        out = self.conv(hidden, 1, name="conv.0")(x)
        out = nn.relu(self.norm(name="conv.1")(out))
        out = self.conv(hidden, 3, self.stride, groups=hidden, name="conv.3")(out)
        out = nn.relu(self.norm(name="conv.4")(out))
        out = self.conv(self.width, 1, name="conv.6")(out)
        out = self.norm(name="conv.7")(out)
        if self.stride == 1 and x.shape == out.shape:
            out = x + out
        return out, out


def expand_to_1280(layers: Layers, name: str, x: Array) -> Pair:
    """A 1x1 convolution, batch norm and ReLU."""
    x = layers.conv(1280, 1, name=f"{name}.0")(x)
    return norm_and_relu(layers, f"{name}.1", x)


class MobileNetV2(Network):
    """A stem and four stages, whose outputs are the maps.

    The stages' maps have no ReLU, so they are their own pre-activations.

    Attributes:
      stem_stride: 2, or 1 for HSAKD's network, whose names and shapes of parameters are the same.
    """

    stem_stride: int = 2

    classifier = "classifier"
    initializers = Initializers(fan_out_normal, init.normal(0.01), bias_zeros)
    branch_initializers = initializers

    @property
    def stages(self) -> int:
        return len(STAGES)

    @nn.nowrap
    def stem(self, layers: Layers, image: Array) -> Pair:
        x = layers.conv(int(32 * WIDTH), 3, self.stem_stride, name="conv1.0")(image)
        x = nn.relu(layers.norm(name="conv1.1")(x))
        return x, x

    @nn.nowrap
    def stage(self, number: int, halve: bool = True) -> list[Part]:
        # Groups are numbered from 0 on through all stages.
        before = sum(len(groups) for groups in STAGES[: number - 1])
        groups = enumerate(STAGES[number - 1], before)
        return [Part(f"blocks.{i}", self.group(*group, halve)) for i, group in groups]

    @nn.nowrap
    def group(self, expansion: int, width: int, depth: int, stride: int, halve: bool) -> Apply:
        """`Part.apply` of one line of `STAGES`."""
        block = partial(InvertedResidual, int(width * WIDTH), expansion=expansion)
        first = stride if halve else 1
        return in_sequence([partial(block, stride=each) for each in strides(first, depth)])

    @nn.nowrap
    def neck(self) -> list[Part]:
        return [Part("conv2", expand_to_1280, "conv2_{branch}")]
