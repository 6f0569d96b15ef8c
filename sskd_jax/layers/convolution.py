"""A 2-d convolution whose gradient suits XLA's CPU backend too.

Inside a loop, XLA's gradients fall back to a naive routine there, which takes up to a hundred
times as long as the forward pass. On the CPU the kernel gradient is therefore a matrix product, a
few images at a time so that what it reads stays in the cache, and the input gradient is a
convolution in the layout of the forward pass. The branch is chosen at lowering; programs for
other platforms are what autodiff gives.

Shapes: x [N, H, W, C], kernel [k, k, I, O] with I = C / groups, dy [N, H', W', O].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer

from sskd_jax.layers.initializers import fan_out_normal
from sskd_jax.layers.parameters import parameter
from sskd_jax.types import Array

PATCH_BYTES = 2_000_000  # of copies at a time, so that they stay in the cache


class Conv(nn.Module):
    """A convolution [N, H, W, C] -> [N, H', W', features], padded by kernel // 2.

    Its kernel is square. It has a bias if `bias_init` says how to initialise one.
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
        kernel = parameter(self, "kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = convolution(x, kernel, self.stride, self.groups)
        if self.bias_init:
            bias = parameter(self, "bias", self.bias_init, (self.features,))
            # Added in float32: nothing is summed in bfloat16.
            y = (y.astype(jnp.float32) + bias.reshape(1, 1, 1, -1)).astype(self.dtype)
        return y


def correlate(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    """x with kernel, padded by k // 2 on every side at any stride, as PyTorch does.

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
    """`correlate` with gradients that are fast on the CPU too."""
    return correlate(x, kernel, stride, groups)


Saved = tuple[Array, Array]  # x and kernel


def _forward(x: Array, kernel: Array, stride: int, groups: int) -> tuple[Array, Saved]:
    return correlate(x, kernel, stride, groups), (x, kernel)


def _backward(stride: int, groups: int, saved: Saved, dy: Array) -> Saved:
    def on_cpu(x: Array, kernel: Array, dy: Array) -> Saved:
        dx = input_gradient(x, kernel, dy, stride, groups)
        return dx, kernel_gradient(x, kernel, dy, stride, groups)

    def by_autodiff(x: Array, kernel: Array, dy: Array) -> Saved:
        def forward(x: Array, kernel: Array) -> Array:
            return correlate(x, kernel, stride, groups)

        return jax.vjp(forward, x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=on_cpu, default=by_autodiff)


convolution.defvjp(_forward, _backward)


def input_gradient(x: Array, kernel: Array, dy: Array, stride: int, groups: int) -> Array:
    """Derivative by x: dy spread by the stride, with the kernel turned, its channels swapped."""
    k, _, inputs, outputs = kernel.shape
    turned = kernel[::-1, ::-1].reshape(k, k, inputs, groups, outputs // groups)
    turned = turned.transpose(0, 1, 4, 3, 2)
    turned = turned.reshape(k, k, outputs // groups, groups * inputs)
    # What the forward pass padded by k // 2 is padded by the rest of k - 1 here; behind the last
    # row comes what the stride left over besides.
    before = k - 1 - k // 2
    padding = []
    for size, out in zip(x.shape[1:3], dy.shape[1:3], strict=True):
        spread = (out - 1) * stride + 1
        padding.append((before, size + k - 1 - before - spread))
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
    """Derivative by the kernel [k, k, I, O], summed over chunks of images in float32."""
    k, _, inputs, outputs = kernel.shape
    copied = 4 * x.shape[1] * dy.shape[2] * k * (x.shape[-1] + outputs)  # bytes per image
    size = images_at_a_time(len(x), copied)
    chunks = tuple(part.reshape(-1, size, *part.shape[1:]) for part in (x, dy))
    is_depthwise = inputs == 1 and outputs == groups
    product = tap_sums if is_depthwise else tap_products

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + product(*chunk, k, stride, groups), None

    zeros = jnp.zeros((groups, k * inputs, k * outputs // groups), jnp.float32)
    total, _ = lax.scan(add, zeros, chunks)
    # [group, (column, input), (row, output)] -> [row, column, input, (group, output)]
    taps = total.reshape(groups, k, inputs, k, outputs // groups)
    return taps.transpose(3, 1, 2, 0, 4).reshape(kernel.shape).astype(kernel.dtype)


def tap_products(x: Array, dy: Array, k: int, stride: int, groups: int) -> Array:
    """[groups, k * I, k * O / groups]: the products that a kernel's gradient consists of.

    They are of the columns that the taps see of x with the rows of x that dy is written to.
    Copies of both k times as wide as they are take less memory than copies of x k^2 times.
    """
    pad, (_, height, width, _) = k // 2, dy.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    across = stride * (width - 1) + 1  # from the first to the last column that a tap sees
    seen = [x[:, :, j : j + across : stride] for j in range(k)]
    beyond = x.shape[1] - stride * (height - 1) - 1  # rows behind the last that is written to
    zero = jnp.zeros((), dy.dtype)
    still = (0, 0, 0)
    written = [
        lax.pad(dy, zero, (still, (i, beyond - i, stride - 1), still, still)) for i in range(k)
    ]
    seen = split_groups(jnp.concatenate(seen, -1), k, groups)
    written = split_groups(jnp.concatenate(written, -1), k, groups)
    return jnp.matmul(seen.mT, written, preferred_element_type=jnp.float32)


def split_groups(x: Array, k: int, groups: int) -> Array:
    """[N, H, W, k * C] -> [groups, N * H * W, k * C / groups]."""
    x = x.reshape(-1, k, groups, x.shape[-1] // (k * groups)).transpose(2, 0, 1, 3)
    return x.reshape(groups, x.shape[1], -1)


def tap_sums(x: Array, dy: Array, k: int, stride: int, groups: int) -> Array:
    """[groups, k, k]: `tap_products` of a depthwise kernel, where I and O / groups are 1."""
    pad, (_, height, width, _) = k // 2, dy.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    down, across = stride * (height - 1) + 1, stride * (width - 1) + 1
    taps = []
    for j in range(k):
        for i in range(k):
            seen = x[:, i : i + down : stride, j : j + across : stride]
            taps.append(jnp.sum(seen * dy, (0, 1, 2), jnp.float32))
    return jnp.stack(taps, -1).reshape(groups, k, k)


def images_at_a_time(images: int, bytes_per_image: int) -> int:
    """The largest divisor of `images` whose copies fit into PATCH_BYTES; one at the least."""
    most = max(1, PATCH_BYTES // bytes_per_image)
    return max(size for size in range(1, images + 1) if images % size == 0 and size <= most)
