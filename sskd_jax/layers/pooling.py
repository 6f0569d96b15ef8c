"""Pooling of maps [B, H, W, C]."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sskd_jax.layers.convolution import convolution
from sskd_jax.types import Array


def global_mean(x: Array) -> Array:
    """Global average pooling [B, H, W, C] -> f32[B, C], in float32 whatever the dtype of x."""
    return x.astype(jnp.float32).mean((1, 2))


def halved(x: Array) -> Array:
    """Average pooling, 3x3 with stride 2, of x padded by zeros, which count: [B, H / 2, W / 2, C].

    On the CPU it is a depthwise convolution, as XLA has no fast gradient of pooling there.
    """
    return lax.platform_dependent(x, cpu=halved_by_convolution, default=halved_by_windows)


def halved_by_windows(x: Array) -> Array:
    """The form of `halved` for accelerators."""
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.avg_pool(padded, window_shape=(3, 3), strides=(2, 2)).astype(x.dtype)


def halved_by_convolution(x: Array) -> Array:
    """The form of `halved` for CPUs."""
    channels = x.shape[-1]
    # Of ones, as a ninth is .19 % too large in bfloat16.
    return convolution(x, jnp.ones((3, 3, 1, channels), x.dtype), 2, channels) / 9
