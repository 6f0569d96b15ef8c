"""Wide residual networks (Zagoruyko and Komodakis 2016), pre-activation."""

from flax import linen as nn
from flax.linen import initializers as init

from sskd_jax.layers.initializers import fan_in_uniform
from sskd_jax.models.network import Layer, Network
from sskd_jax.types import Array, Outputs


class Block(nn.Module):
    """Batch norm, ReLU and convolution, twice, and a skip connection that starts behind the first ReLU if it projects.

    Returns the sum and the first batch norm's output, which is what the block before it counts as its pre-activation.
    """

    width: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        preact = self.norm(name="bn1")(x)
        active = nn.relu(preact)
        out = self.conv(self.width, 3, self.stride, name="conv1")(active)
        out = self.conv(self.width, name="conv2")(nn.relu(self.norm(name="bn2")(out)))
        if x.shape[-1] != self.width:
            x = self.conv(self.width, 1, self.stride, name="convShortcut")(active)
        return x + out, preact


class WideResNet(Network):
    """Three stages of (depth - 4) / 6 blocks.

    As in the reference, the maps of the stem and of the stages are the raw sums: their ReLU belongs to the next stage.
    """

    depth: int = 16
    width: int = 1

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        conv, norm = self.layers(train)
        x = conv(16, name="conv1")(image)
        maps, preacts = [x], [x]
        for stage in (1, 2, 3):
            for i in range((self.depth - 4) // 6):
                stride = 2 if stage > 1 and i == 0 else 1
                block = Block(
                    16 * self.width * 2 ** (stage - 1),
                    stride,
                    conv,
                    norm,
                    name=f"block{stage}.layer.{i}",
                )
                x, preact = block(x)
                if stage > 1 and i == 0:
                    preacts.append(preact)
            maps.append(x)
        preacts.append(norm(name="bn1")(x))
        return self.outputs(nn.relu(preacts[-1]), maps, preacts, "fc", fan_in_uniform, init.zeros)
