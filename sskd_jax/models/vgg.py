"""VGG with batch norm (Simonyan and Zisserman 2015) for 32x32 images."""

from collections.abc import Sequence

from flax import linen as nn
from flax.linen import initializers as init

from sskd_jax.models.network import Network
from sskd_jax.types import Array, Outputs


class VGG(Network):
    """Five blocks of 3x3 convolutions.

    Max-pooling follows the first three blocks and, at 64 pixels and more, the fourth: as in the reference.

    Attributes:
      blocks: number of convolutions in every block.
    """

    blocks: Sequence[int] = (1, 1, 1, 1, 1)

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Outputs:
        conv, norm = self.layers(train)
        x, maps, preacts = image, [], []
        pools = 4 if image.shape[1] >= 64 else 3
        for block, (depth, width) in enumerate(
            zip(self.blocks, (64, 128, 256, 512, 512), strict=True)
        ):
            for i in range(
                depth
            ):  # PyTorch numbers convolution, batch norm and ReLU in one sequence
                x = conv(width, bias_init=init.zeros, name=f"block{block}.{3 * i}")(x)
                preact = norm(name=f"block{block}.{3 * i + 1}")(x)
                x = nn.relu(preact)
            maps.append(x)
            preacts.append(
                preact if block else x
            )  # the reference lists its first map behind the ReLU in both
            if block < pools:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return self.outputs(x, maps, preacts, "classifier", init.normal(0.01), init.zeros)
