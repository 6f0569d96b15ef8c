"""A 2-d convolution whose gradient suits XLA's CPU backend too.

Inside a loop, XLA's gradients fall back to a naive routine there, which takes up to a hundred times as long as the
forward pass. On the CPU the kernel gradient is therefore a matrix product, a few images at a time so that what it reads
stays in the cache, and the input gradient is a convolution in the layout of the forward pass. The branch is chosen at
lowering; programs for other platforms are what autodiff gives.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer

from sskd_jax.layers.initializers import fan_out_normal
from sskd_jax.types import Array

PATCH_BYTES = 2_000_000  # of copies at a time, so that they stay in the cache


class Conv(nn.Module):
    """A convolution [N, H, W, C] -> [N, H', W', features] with a square kernel, padded by kernel // 2.

    It has a bias if `bias_init` says how to initialise it.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    dtype: Any = jnp.float32
    kernel_init: Initializer = fan_out_normal
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.groups)
        if self.bias_init:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            x = (x.astype(jnp.float32) + bias.reshape(1, 1, 1, -1)).astype(self.dtype)
        return x


def correlate(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    """x [N, H, W, C] with kernel [k, k, C / groups, O], padded by k // 2 on every side, as PyTorch does at any stride.

    SAME would pad (0, 1) instead of (1, 1) at stride 2.
    """
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    """`correlate` with the gradients described above."""
    return correlate(x, kernel, stride, groups)


def _forward(
    x: Array, kernel: Array, stride: int, groups: int
) -> tuple[Array, tuple[Array, Array]]:
    return correlate(x, kernel, stride, groups), (x, kernel)


def _backward(
    stride: int, groups: int, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    def cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return input_gradient(x, kernel, dy, stride, groups), kernel_gradient(
            x, kernel, dy, stride, groups
        )

    def default(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, kernel: correlate(x, kernel, stride, groups), x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=cpu, default=default)


convolution.defvjp(_forward, _backward)


def input_gradient(x: Array, kernel: Array, dy: Array, stride: int, groups: int) -> Array:
    """d/dx: dy [N, H', W', O], spread by the stride, with the kernel turned round and its channels swapped."""
    k, _, inputs, outputs = kernel.shape
    turned = kernel[::-1, ::-1].reshape(k, k, inputs, groups, outputs // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(k, k, outputs // groups, groups * inputs)
    low = k - 1 - k // 2
    padding = [
        (low, size - (out - 1) * stride - 1 - low + k - 1)
        for size, out in zip(x.shape[1:3], dy.shape[1:3], strict=True)
    ]
    return lax.conv_general_dilated(
        dy,
        turned,
        (1, 1),
        padding,
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def kernel_gradient(x: Array, kernel: Array, dy: Array, stride: int, groups: int) -> Array:
    """d/dkernel [k, k, C / groups, O], summed over chunks of images in float32."""
    k, _, inputs, outputs = kernel.shape
    size = images_at_a_time(len(x), 4 * x.shape[1] * dy.shape[2] * k * (x.shape[-1] + outputs))
    chunks = tuple(part.reshape(-1, size, *part.shape[1:]) for part in (x, dy))
    product = tap_sums if inputs == 1 and outputs == groups else tap_products
    zeros = jnp.zeros((groups, k * inputs, k * outputs // groups), jnp.float32)
    total, _ = lax.scan(
        lambda total, chunk: (total + product(*chunk, k, stride, groups), None), zeros, chunks
    )
    taps = total.reshape(groups, k, inputs, k, outputs // groups)  # column, input, row, output
    return taps.transpose(3, 1, 2, 0, 4).reshape(kernel.shape).astype(kernel.dtype)


def tap_products(x: Array, dy: Array, k: int, stride: int, groups: int) -> Array:
    """[groups, k * I, k * O]: the columns that the taps see of x, times the rows of x that they write to of dy.

    Copies of both k times as wide as they are take less memory than copies of x k^2 times.
    """
    pad, (_, height, width, _) = k // 2, dy.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    seen = jnp.concatenate(
        [x[:, :, j : j + stride * (width - 1) + 1 : stride] for j in range(k)], -1
    )
    beyond = x.shape[1] - stride * (height - 1) - 1
    zero = jnp.zeros((), dy.dtype)
    written = jnp.concatenate(
        [
            lax.pad(dy, zero, ((0, 0, 0), (i, beyond - i, stride - 1), (0, 0, 0), (0, 0, 0)))
            for i in range(k)
        ],
        -1,
    )
    seen, written = (split_groups(part, k, groups) for part in (seen, written))
    return jnp.matmul(seen.mT, written, preferred_element_type=jnp.float32)


def split_groups(x: Array, k: int, groups: int) -> Array:
    """[N, H, W, k * C] -> [groups, N * H * W, k * C / groups]."""
    x = x.reshape(-1, k, groups, x.shape[-1] // (k * groups)).transpose(2, 0, 1, 3)
    return x.reshape(groups, x.shape[1], -1)


def tap_sums(x: Array, dy: Array, k: int, stride: int, groups: int) -> Array:
    """The same of a depthwise kernel, where a product of 1x1 matrices is a product of numbers."""
    pad, (_, height, width, _) = k // 2, dy.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    taps = [
        jnp.sum(
            x[
                :,
                i : i + stride * (height - 1) + 1 : stride,
                j : j + stride * (width - 1) + 1 : stride,
            ]
            * dy,
            (0, 1, 2),
            jnp.float32,
        )
        for j in range(k)
        for i in range(k)
    ]
    return jnp.stack(taps, -1).reshape(groups, k, k)


def images_at_a_time(images: int, bytes_per_image: int) -> int:
    """The largest divisor of `images` whose copies fit into PATCH_BYTES; one at the least."""
    return max(
        size
        for size in range(1, images + 1)
        if images % size == 0 and (size == 1 or size * bytes_per_image <= PATCH_BYTES)
    )
