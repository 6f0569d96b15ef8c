"""MobileNetV2 (Sandler et al. 2018) at half width for 32x32 images."""

from flax import linen as nn
from flax.linen import initializers as init

from sskd_jax.models.network import Layer, Network
from sskd_jax.types import Array, Outputs

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, width, blocks and first stride of every stage; the second stage has stride 1 where ImageNet's has 2."""


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise 3x3, project by 1x1 without a ReLU; skip where the shapes allow."""

    width: int
    stride: int
    expansion: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = self.expansion * x.shape[-1]
        out = nn.relu(self.norm(name="conv.1")(self.conv(hidden, 1, name="conv.0")(x)))
        out = self.conv(hidden, 3, self.stride, groups=hidden, name="conv.3")(out)
        out = self.conv(self.width, 1, name="conv.6")(nn.relu(self.norm(name="conv.4")(out)))
        out = self.norm(name="conv.7")(out)
        return x + out if x.shape == out.shape and self.stride == 1 else out


class MobileNetV2(Network):
    """Maps are those in front of every halving; they have no ReLU, so they are their own pre-activations."""

    width: float = 0.5

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        conv, norm = self.layers(train)
        x = nn.relu(norm(name="conv1.1")(conv(int(32 * self.width), 3, 2, name="conv1.0")(image)))
        maps = [x]
        for stage, (expansion, width, depth, stride) in enumerate(STAGES):
            for i in range(depth):
                block = InvertedResidual(
                    int(width * self.width),
                    stride if i == 0 else 1,
                    expansion,
                    conv,
                    norm,
                    name=f"blocks.{stage}.{i}",
                )
                x = block(x)
            if stage in (1, 2, 4, 6):
                maps.append(x)
        x = nn.relu(norm(name="conv2.1")(conv(1280, 1, name="conv2.0")(x)))
        return self.outputs(x, maps, maps, "classifier", init.normal(0.01), init.zeros)
