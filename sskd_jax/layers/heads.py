"""Layers between a student's map and a teacher's: trained with the student, thrown away with the method.

They see the global batch, so their batch norm needs no statistics of its own: evaluation never runs them.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sskd_jax.layers.convolution import Conv
from sskd_jax.layers.initializers import bias_uniform, fan_in_uniform
from sskd_jax.types import Array, Outputs, Params, UserError


class BatchNorm(nn.Module):
    """Batch norm of [..., C] by the batch alone, eps 1e-5."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        axes, width = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1) + x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        return (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(
            x.var(axes, keepdims=True) + 1e-5
        ) * scale + bias


class Linear(nn.Module):
    """A linear layer [N, D] -> [N, features] with PyTorch's default initialisation."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        bias = bias_uniform(x.shape[-1])
        return nn.Dense(self.features, kernel_init=fan_in_uniform, bias_init=bias, name="linear")(x)


class Convolution(nn.Module):
    """A convolution [N, H, W, C] -> [N, H', W', features] with PyTorch's default initialisation."""

    features: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        bias = bias_uniform(self.kernel**2 * x.shape[-1])
        return Conv(
            self.features,
            self.kernel,
            self.stride,
            kernel_init=fan_in_uniform,
            bias_init=bias,
            name="conv",
        )(x)


class Doubling(nn.Module):
    """A transposed 4x4 convolution [N, H, W, C] -> [N, 2H, 2W, features], initialised as PyTorch's."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = bias_uniform(
            16 * self.features
        )  # PyTorch takes a transposed convolution's outputs for its inputs
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", init, (1, 1, 1, self.features))
        return jax.lax.conv_transpose(x, kernel, (2, 2), ((2, 2), (2, 2))) + bias


class Regressor(nn.Module):
    """Brings a map [N, H, W, C] to the shape [N, size, size, width]: a convolution and batch norm.

    3x3 of stride 2 halves the size, a transposed one doubles it, 1x1 keeps it.

    Raises:
      UserError: `size` is none of these.
    """

    width: int
    size: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        size = features.shape[1]
        layers = {
            self.size: partial(Convolution, kernel=1),
            2 * self.size: partial(Convolution, stride=2),
            self.size / 2: Doubling,
        }
        if size not in layers:
            raise UserError(
                f"the student's map of {size}x{size} is neither as large as the teacher's of {self.size}x"
                f"{self.size}, nor twice or half as large: choose another pair of networks"
            )
        return BatchNorm(name="norm")(
            layers[size](self.width, name="layer")(features.astype(jnp.float32))
        )


def nearest(features: Array, height: int, width: int) -> Array:
    """A map [N, H, W, C] scaled to height x width: every pixel is the one it falls into."""
    rows, columns = (
        np.arange(new) * old // new
        for new, old in zip((height, width), features.shape[1:3], strict=True)
    )
    return features[:, rows][:, :, columns]


def init_all(key: Array, modules: Mapping[str, tuple[nn.Module, Any]]) -> dict[str, Params]:
    """The parameters of every module, each given with its input or what has the shapes of that."""
    return {
        name: module.init(
            jax.random.fold_in(key, i), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), x)
        )["params"]
        for i, (name, (module, x)) in enumerate(modules.items())
    }


def init_embeds(key: Array, student: Outputs, teacher: Outputs, width: int) -> Params:
    """Of a linear layer for each network's embedding."""
    return init_all(
        key, {"student": (Linear(width), student.embed), "teacher": (Linear(width), teacher.embed)}
    )


def embeds(params: Params, student: Outputs, teacher: Outputs, width: int) -> tuple[Array, Array]:
    """Both embeddings in a common space: [N, width] each."""
    return tuple(
        Linear(width).apply({"params": params[name]}, outputs.embed)
        for name, outputs in (("student", student), ("teacher", teacher))
    )
