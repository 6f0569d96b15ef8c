"""Residual networks (He et al. 2016): those for 32x32 images, and ImageNet's for 224x224."""

from collections.abc import Sequence

from flax import linen as nn

from sskd_jax.models.network import Layer, Network
from sskd_jax.types import Array, Outputs


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection; returns (relu(sum), sum)."""

    width: int
    stride: int
    conv: Layer
    norm: Layer
    skip: str = "downsample"
    expansion = 1

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        out = nn.relu(self.norm(name="bn1")(self.conv(self.width, 3, self.stride, name="conv1")(x)))
        out = self.norm(name="bn2")(self.conv(self.width, name="conv2")(out))
        return self.join(x, out)

    def join(self, x: Array, out: Array) -> tuple[Array, Array]:
        if self.stride != 1 or x.shape != out.shape:
            x = self.conv(out.shape[-1], 1, self.stride, name=f"{self.skip}.0")(x)
            x = self.norm(name=f"{self.skip}.1")(x)
        preact = out + x
        return nn.relu(preact), preact


class Bottleneck(BasicBlock):
    """1x1, 3x3, 1x1 convolutions, four times wider at the end."""

    expansion = 4

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        out = nn.relu(self.norm(name="bn1")(self.conv(self.width, 1, name="conv1")(x)))
        out = nn.relu(
            self.norm(name="bn2")(self.conv(self.width, 3, self.stride, name="conv2")(out))
        )
        out = self.norm(name="bn3")(self.conv(self.expansion * self.width, 1, name="conv3")(out))
        return self.join(x, out)


class ResNet(Network):
    """Stages of residual blocks, each after the first at half the resolution.

    Attributes:
      blocks: number of blocks in every stage.
      widths: width of the stem, then of every stage.
      skip: name of the projection on a skip connection, which differs between the reference's files.
      classifier: name of the last layer, likewise.
      large: ImageNet's stem, a 7x7 convolution of stride 2 and max-pooling, instead of a 3x3 convolution.
    """

    blocks: Sequence[int] = (3, 3, 3)
    widths: Sequence[int] = (16, 16, 32, 64)
    block: type[BasicBlock] = BasicBlock
    skip: str = "downsample"
    classifier: str = "fc"
    large: bool = False

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        conv, norm = self.layers(train)
        stem = conv(self.widths[0], *((7, 2) if self.large else ()), name="conv1")
        x = nn.relu(norm(name="bn1")(stem(image)))
        if self.large:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        maps, preacts = [x], [x]
        for stage, (depth, width) in enumerate(zip(self.blocks, self.widths[1:], strict=True), 1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                x, preact = self.block(
                    width, stride, conv, norm, self.skip, name=f"layer{stage}.{i}"
                )(x)
            maps.append(x)
            preacts.append(preact)
        return self.outputs(x, maps, preacts, self.classifier)
