"""Layers on features, which bring a student's to the teacher's shape, or into a common space.

They are trained with the student and are not part of the trained network.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.initializers import bias_uniform, fan_in_uniform
from sskd_jax.layers.norm import BatchNorm
from sskd_jax.types import Array, UserError


class Linear(nn.Module):
    """A linear layer [n, D] -> [n, features] with PyTorch's default initialisation."""

    features: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        bias = bias_uniform(x.shape[-1])
        start = {"kernel_init": fan_in_uniform, "bias_init": bias}
        return nn.Dense(self.features, precision="highest", name="linear", **start)(x)


class Projector(nn.Module):
    """A linear layer [n, D] -> [n, D'] to the width of another embedding [n, D']."""

    @nn.compact
    def __call__(self, embed: Array, target: Array, train: bool = False) -> Array:
        return Linear(target.shape[-1], name="to_target")(embed)


class Convolution(nn.Module):
    """A convolution [n, H, W, C] -> [n, H', W', features], initialised as in PyTorch."""

    features: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layer = Conv(
            self.features,
            self.kernel,
            self.stride,
            kernel_init=fan_in_uniform,
            bias_init=bias_uniform(self.kernel**2 * x.shape[-1]),
            name="conv",
        )
        return layer(x)


class Doubling(nn.Module):
    """A transposed 4x4 convolution [n, H, W, C] -> [n, 2H, 2W, features], as PyTorch's."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # PyTorch scales the initialisation of a transposed convolution by its number of outputs.
        init = bias_uniform(16 * self.features)
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", init, (1, 1, 1, self.features))
        return jax.lax.conv_transpose(x, kernel, (2, 2), ((2, 2), (2, 2))) + bias


class Regressor(nn.Module):
    """Brings a map [n, H, W, C] to the shape [n, H', W', C'] of another.

    It is a convolution and batch norm. The convolution is 3x3 of stride 2 to halve the size,
    transposed to double it, and 1x1 to keep it.

    Raises:
      UserError: the other map's size is neither equal, nor half or double.
    """

    @nn.compact
    def __call__(self, features: Array, target: Array, train: bool = False) -> Array:
        ours, theirs, width = features.shape[1], target.shape[1], target.shape[-1]
        layers = {
            theirs: partial(Convolution, kernel=1),
            2 * theirs: partial(Convolution, stride=2),
            theirs / 2: Doubling,
        }
        if ours not in layers:
            raise UserError(
                f"the student's map of {ours}x{ours} is neither as large as the teacher's of "
                f"{theirs}x{theirs}, nor twice or half as large: choose another pair of networks"
            )
        layer = layers[ours](width, name="layer")
        return BatchNorm(train, name="norm")(layer(features.astype(jnp.float32)))


def nearest(features: Array, height: int, width: int) -> Array:
    """A map [n, H, W, C] resized to height x width by the nearest pixel, rounded down."""
    for axis, new in ((1, height), (2, width)):
        old = features.shape[axis]
        if new % old:
            features = jnp.take(features, np.arange(new) * old // new, axis)
        elif new > old:  # unlike a gather, this has a gradient without a scatter
            features = jnp.repeat(features, new // old, axis)
    return features
