"""A 2-d convolution whose gradient suits XLA's CPU backend too.

There, XLA's own kernel gradient takes 3 to 18 times as long as the forward pass, and inside a loop it and the input
gradient of most layouts fall back to a naive one. On the CPU the kernel gradient is therefore a product of patches, a
few images at a time so that they stay in the cache, and the input gradient is a convolution in the layout of the
forward pass. The branch is chosen at lowering; programs for other platforms are what autodiff gives.
"""
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sskd_jax.types import Array

PATCH_BYTES = 2_000_000  # of patches at a time: about what a core's second-level cache holds


def correlate(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    """x [N, H, W, C] with kernel [k, k, C / groups, O], padded by k // 2 on every side, as PyTorch does at any stride.

    SAME would pad (0, 1) instead of (1, 1) at stride 2.
    """
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), ((pad, pad), (pad, pad)),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    """`correlate` with the gradients described above."""
    return correlate(x, kernel, stride, groups)


def _forward(x: Array, kernel: Array, stride: int, groups: int) -> tuple[Array, tuple[Array, Array]]:
    return correlate(x, kernel, stride, groups), (x, kernel)


def _backward(stride: int, groups: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    def cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return input_gradient(x, kernel, dy, stride, groups), kernel_gradient(x, kernel, dy, stride, groups)

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
    padding = [(low, size - (out - 1) * stride - 1 - low + k - 1) for size, out in zip(x.shape[1:3], dy.shape[1:3],
                                                                                   strict=True)]
    return lax.conv_general_dilated(dy, turned, (1, 1), padding, lhs_dilation=(stride, stride),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def shifts(x: Array, k: int, stride: int, height: int, width: int) -> list[Array]:
    """The k * k windows [N, height, width, C] of padded x that the kernel's taps see."""
    return [x[:, i:i + stride * (height - 1) + 1:stride, j:j + stride * (width - 1) + 1:stride]
            for i in range(k) for j in range(k)]


def kernel_gradient(x: Array, kernel: Array, dy: Array, stride: int, groups: int) -> Array:
    """d/dkernel: patches of x, transposed, times dy, summed over chunks of images in float32."""
    k, _, inputs, outputs = kernel.shape
    images, height, width, _ = dy.shape
    pad = k // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def chunk_gradient(x: Array, dy: Array) -> Array:
        rows = dy.reshape(-1, groups, outputs // groups)
        windows = shifts(x, k, stride, height, width)
        if inputs == 1 and outputs == groups:  # depthwise: a product of 1x1 matrices is a product of numbers
            taps = jnp.stack([jnp.sum(window * dy, (0, 1, 2), jnp.float32) for window in windows])
        else:
            patches = jnp.stack(windows, -2).reshape(rows.shape[0], k * k, groups, inputs)
            taps = jnp.einsum("rtgi,rgo->tigo", patches, rows, preferred_element_type=jnp.float32)
        return taps.reshape(k * k, inputs, outputs)

    size = images_at_a_time(images, 4 * height * width * k * k * inputs * groups)
    chunks = tuple(part.reshape(images // size, size, *part.shape[1:]) for part in (x, dy))
    total = lax.scan(lambda total, chunk: (total + chunk_gradient(*chunk), None),
                     jnp.zeros((k * k, inputs, outputs), jnp.float32), chunks)[0]
    return total.reshape(kernel.shape).astype(kernel.dtype)


def images_at_a_time(images: int, bytes_per_image: int) -> int:
    """The largest divisor of `images` whose patches fit into PATCH_BYTES; one at the least."""
    return max(size for size in range(1, images + 1)
               if images % size == 0 and (size == 1 or size * bytes_per_image <= PATCH_BYTES))
