"""ShuffleNet V1 (Zhang et al. 2018) and V2 (Ma et al. 2018) for 32x32 images."""

from flax import linen as nn
from jax import numpy as jnp

from sskd_jax.layers.initializers import fan_in_uniform
from sskd_jax.models.network import Layer, Network
from sskd_jax.types import Array, Outputs


def shuffle(x: Array, groups: int) -> Array:
    """Deals the channels of x [..., C] out, one of every group at a time."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return split.swapaxes(-1, -2).reshape(x.shape)


class BlockV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; at stride 2 the pooled input is concatenated, else added."""

    width: int
    stride: int
    conv: Layer
    norm: Layer
    groups: int = 3

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        width = self.width - x.shape[-1] if self.stride == 2 else self.width
        hidden = width // 4
        groups = (
            1 if x.shape[-1] == 24 else self.groups
        )  # the stem's 24 channels are too few to group
        out = nn.relu(self.norm(name="bn1")(self.conv(hidden, 1, groups=groups, name="conv1")(x)))
        out = self.conv(hidden, 3, self.stride, groups=hidden, name="conv2")(shuffle(out, groups))
        out = self.conv(width, 1, groups=self.groups, name="conv3")(
            nn.relu(self.norm(name="bn2")(out))
        )
        out = self.norm(name="bn3")(out)
        if self.stride == 2:
            x = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            preact = jnp.concatenate([out, x], -1)
        else:
            preact = out + x
        return nn.relu(preact), preact


class ShuffleNetV1(Network):
    """Three stages of 4, 8 and 4 blocks in three groups."""

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        conv, norm = self.layers(train, fan_in_uniform)
        x = nn.relu(norm(name="bn1")(conv(24, 1, name="conv1")(image)))
        maps, preacts = [x], [x]
        for stage, (depth, width) in enumerate(((4, 240), (8, 480), (4, 960)), 1):
            for i in range(depth):
                x, preact = BlockV1(width, 1 if i else 2, conv, norm, name=f"layer{stage}.{i}")(x)
            maps.append(x)
            preacts.append(preact)
        return self.outputs(x, maps, preacts, "linear")


class DownBlock(nn.Module):
    """Halves the resolution in two branches of width / 2 and shuffles them together."""

    width: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        half, channels = self.width // 2, x.shape[-1]
        left = self.norm(name="bn1")(self.conv(channels, 3, 2, groups=channels, name="conv1")(x))
        left = nn.relu(self.norm(name="bn2")(self.conv(half, 1, name="conv2")(left)))
        right = nn.relu(self.norm(name="bn3")(self.conv(half, 1, name="conv3")(x)))
        right = self.norm(name="bn4")(self.conv(half, 3, 2, groups=half, name="conv4")(right))
        right = nn.relu(self.norm(name="bn5")(self.conv(half, 1, name="conv5")(right)))
        out = shuffle(jnp.concatenate([left, right], -1), 2)
        return out, out


class SplitBlock(nn.Module):
    """Transforms one half of the channels and shuffles it with the other."""

    width: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        half = self.width // 2
        kept, out = x[..., :half], x[..., half:]
        out = nn.relu(self.norm(name="bn1")(self.conv(half, 1, name="conv1")(out)))
        out = self.norm(name="bn2")(self.conv(half, 3, groups=half, name="conv2")(out))
        out = self.norm(name="bn3")(self.conv(half, 1, name="conv3")(out))
        return shuffle(jnp.concatenate([kept, nn.relu(out)], -1), 2), jnp.concatenate(
            [kept, out], -1
        )


class ShuffleNetV2(Network):
    """Three stages of a DownBlock and 3, 7 and 3 SplitBlocks, then a 1x1 convolution to 1024 channels."""

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        conv, norm = self.layers(train, fan_in_uniform)
        x = nn.relu(norm(name="bn1")(conv(24, 1, name="conv1")(image)))
        maps, preacts = [x], [x]
        for stage, (depth, width) in enumerate(((4, 116), (8, 232), (4, 464)), 1):
            for i in range(depth):
                block = SplitBlock if i else DownBlock
                x, preact = block(width, conv, norm, name=f"layer{stage}.{i}")(x)
            maps.append(x)
            preacts.append(preact)
        x = nn.relu(norm(name="bn2")(conv(1024, 1, name="conv2")(x)))
        return self.outputs(x, maps, preacts, "linear")
