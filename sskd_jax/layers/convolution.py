"""A 2-d convolution that is fast on XLA's CPU backend, too, and so are its gradients.

Inside a loop, XLA's CPU backend computes the gradients by a naive routine, which takes up to a
hundred times as long as the forward pass. On the CPU both gradients are therefore written as
convolutions in the layout of the forward pass; that by the kernel takes a few images at a time, so
that its inputs stay in the cache. For depthwise kernels, the CPU backend has only the naive
routine, so they are computed as sums over the kernel's positions (taps). The choice is made when
the program is lowered; on other platforms the gradients are those of autodiff.

Shapes: x [N, H, W, C], kernel [k, k, I, O] with I = C / groups, dy [N, H', W', O].
"""

from collections.abc import Callable, Iterator
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

# In a kernel gradient: as many as an AVX-512 register holds; copies of more exceed the cache.
IMAGES_AT_A_TIME = 16


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
    """Convolves x, padded by k // 2 on every side at any stride as in PyTorch, with kernel.

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
    """`correlate` in a form that is fast on the CPU, too, and so are its gradients."""
    elsewhere = partial(correlate, stride=stride, groups=groups)
    if groups == 1:
        return elsewhere(x, kernel)
    if is_depthwise(kernel, groups):
        on_cpu = partial(depthwise, stride=stride)
    else:
        on_cpu = group_by_group(partial(correlate, stride=stride, groups=1), groups)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


Saved = tuple[Array, Array]  # x and kernel


def _forward(x: Array, kernel: Array, stride: int, groups: int) -> tuple[Array, Saved]:
    return convolution(x, kernel, stride, groups), (x, kernel)


def _backward(stride: int, groups: int, saved: Saved, dy: Array) -> Saved:
    gradients = (input_gradient, kernel_gradient)
    if groups > 1:
        gradients = tuple(group_by_group(gradient, groups) for gradient in gradients)
    if is_depthwise(saved[1], groups):
        gradients = (depthwise_input_gradient, depthwise_kernel_gradient)

    def on_cpu(x: Array, kernel: Array, dy: Array) -> Saved:
        by_input, by_kernel = (gradient(x, kernel, dy, stride=stride) for gradient in gradients)
        return by_input, by_kernel.astype(kernel.dtype)

    def by_autodiff(x: Array, kernel: Array, dy: Array) -> Saved:
        def forward(x: Array, kernel: Array) -> Array:
            return correlate(x, kernel, stride, groups)

        return jax.vjp(forward, x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=on_cpu, default=by_autodiff)


convolution.defvjp(_forward, _backward)


# Kernels that see all channels: groups == 1.


def input_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> Array:
    """Derivative by x, for all phases of x at once; a phase is the pixels that lie `stride` apart.

    Each phase depends on dy through separate taps, so one convolution of dy gives all phases as
    channels. Dilating dy by the stride instead would mostly multiply by zeros.
    """
    k, _, inputs, outputs = kernel.shape
    pad, (images, height, width, _) = k // 2, x.shape
    # Pixel stride * p + u of x gets kernel[u + pad - stride * a] of dy[p + a], a = first ... last.
    first, last = -((k - 1 - pad) // stride), (stride - 1 + pad) // stride
    taps = last - first + 1
    before = stride * last - pad
    around = (before, taps * stride - k - before)
    spread = jnp.pad(kernel, (around, around, (0, 0), (0, 0)))
    spread = spread.reshape(taps, stride, taps, stride, inputs, outputs)
    # [-a, u, -b, v, input, output] -> [a, b, output, (u, v, input)]
    phases = spread[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    phases = phases.reshape(taps, taps, outputs, -1)
    dx = lax.conv_general_dilated(
        dy,
        phases,
        (1, 1),
        ((-first, last), (-first, last)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    _, down, across, _ = dx.shape
    dx = dx.reshape(images, down, across, stride, stride, inputs).transpose(0, 1, 3, 2, 4, 5)
    return dx.reshape(images, down * stride, across * stride, inputs)[:, :height, :width]


def kernel_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> Array:
    """Derivative by the kernel: f32[k, k, I, O]."""
    k, _, inputs, outputs = kernel.shape
    if k == 1:
        seen = x[:, ::stride, ::stride].reshape(-1, inputs)
        product = jnp.matmul(seen.T, dy.reshape(-1, outputs), preferred_element_type=jnp.float32)
        return product.reshape(1, 1, inputs, outputs)
    return sum_over_chunks(partial(tap_products, k=k, stride=stride), x, dy).transpose(1, 2, 0, 3)


def tap_products(x: Array, dy: Array, k: int, stride: int) -> Array:
    """f32[I, k, k, O]: a convolution of x with dy in which images are the channels to sum over.

    Input channels take the place of images, and dy, dilated by the stride, that of the kernel.
    """
    pad, padding = k // 2, []
    for size, out in zip(x.shape[1:3], dy.shape[1:3], strict=True):
        padding.append((pad, stride * (out - 1) + k - size - pad))
    return lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        padding,
        rhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )


def sum_over_chunks(product: Callable[[Array, Array], Array], x: Array, dy: Array) -> Array:
    """The sum of product(x, dy), in float32, over chunks of a few images."""
    size = images_at_a_time(len(x))
    chunks = tuple(part.reshape(-1, size, *part.shape[1:]) for part in (x, dy))
    shape = jax.eval_shape(product, x[:size], dy[:size])

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + product(*chunk), None

    total, _ = lax.scan(add, jnp.zeros_like(shape), chunks)
    return total


def images_at_a_time(images: int) -> int:
    """The largest divisor of `images` that is no more than IMAGES_AT_A_TIME."""
    return max(size for size in range(1, IMAGES_AT_A_TIME + 1) if images % size == 0)


# Kernels in groups.


def group_by_group(function: Callable[..., Array], groups: int) -> Callable[..., Array]:
    """Applies `function` to each group; channels are the last axis of all its arrays."""

    def apply(*arrays: Array, **numbers: int) -> Array:
        parts = zip(*(jnp.split(array, groups, -1) for array in arrays), strict=True)
        return jnp.concatenate([function(*part, **numbers) for part in parts], -1)

    return apply


def is_depthwise(kernel: Array, groups: int) -> bool:
    """Whether every channel has a kernel [k, k] of its own."""
    _, _, inputs, outputs = kernel.shape
    return groups > 1 and inputs == 1 and outputs == groups


def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """`correlate` with a depthwise kernel, summed in float32: one loop over the outputs."""
    total = sum(
        seen.astype(jnp.float32) * kernel[i, j, 0].reshape(1, 1, 1, -1)
        for (i, j), seen in taps(x, kernel.shape[0], stride)
    )
    return total.astype(x.dtype)


def taps(x: Array, k: int, stride: int) -> Iterator[tuple[tuple[int, int], Array]]:
    """Yields (i, j) and the pixels [N, H', W', C] that a kernel [k, k] multiplies by its [i, j].

    The kernel moves over x, padded by k // 2, in steps of `stride` pixels.
    """
    pad = k // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    down, across = x.shape[1] - k + 1, x.shape[2] - k + 1
    for i in range(k):
        for j in range(k):
            yield (i, j), x[:, i : i + down : stride, j : j + across : stride]


def depthwise_input_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> Array:
    """Derivative by x: dy, dilated by the stride to x's size, with the kernel turned by 180°."""
    around = []
    for size, out in zip(x.shape[1:3], dy.shape[1:3], strict=True):
        around.append((0, size - 1 - stride * (out - 1), stride - 1))
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *around, (0, 0, 0)))
    return depthwise(spread, kernel[::-1, ::-1], 1)


def depthwise_kernel_gradient(x: Array, kernel: Array, dy: Array, stride: int) -> Array:
    """Derivative by the kernel: f32[k, k, 1, C]."""

    def products(x: Array, dy: Array) -> Array:
        seen = taps(x, kernel.shape[0], stride)
        return jnp.stack([jnp.sum(part * dy, (0, 1, 2), jnp.float32) for _, part in seen])

    return sum_over_chunks(products, x, dy).reshape(kernel.shape)
