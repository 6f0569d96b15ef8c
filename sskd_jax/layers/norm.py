"""Batch norm as in PyTorch, and the parameters of a frozen network, prepared for evaluation."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import initializers as init
from jax import lax

from sskd_jax.axis import device_count, everywhere
from sskd_jax.layers.parameters import parameter
from sskd_jax.types import Array, Params

EPSILON = 1e-5  # added to the variance, as in PyTorch


def per_channel(vector: Array, x: Array) -> Array:
    """A vector [C] in a shape that broadcasts with x [..., C]."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, by the statistics of the whole batch.

    As in PyTorch, the running variance is the unbiased one.

    Attributes:
      train: whether to normalise by the batch and update the running statistics, instead of
        normalising by these.
      dtype: of the result; statistics are always float32.
      momentum: the share of the running statistics that is kept; .9 here is .1 in PyTorch.
    """

    train: bool = False
    dtype: Any = jnp.float32
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gain = parameter(self, "scale", init.ones, x.shape[-1:])
        shift = parameter(self, "bias", init.zeros, x.shape[-1:])
        # A `folded` network has its running statistics in gain and shift.
        is_folded = not self.has_variable("batch_stats", "mean")
        x = x.astype(jnp.float32)
        if self.train or self.is_initializing() or not is_folded:
            mean, var = self.statistics(x)
            gain = gain * lax.rsqrt(var + EPSILON)
            # Not as shift - mean * gain: where the mean is many deviations from 0, digits get lost.
            x = x - per_channel(mean, x)
        y = x * per_channel(gain, x) + per_channel(shift, x)
        return y.astype(self.dtype)

    def statistics(self, x: Array) -> tuple[Array, Array]:
        """The mean and variance [C] to normalise by; in training, it updates the running ones."""
        width = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, width, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, width, jnp.float32)
        if not self.train or self.is_initializing():
            return running_mean.value, running_var.value
        mean, var, count = batch_statistics(x)
        unbiased = var * (count / (count - 1))
        running_mean.value = self.momentum_update(running_mean.value, mean)
        running_var.value = self.momentum_update(running_var.value, unbiased)
        return mean, var

    def momentum_update(self, running: Array, batch: Array) -> Array:
        return self.momentum * running + (1 - self.momentum) * batch


def batch_statistics(x: Array) -> tuple[Array, Array, int]:
    """Mean [C], biased variance [C] and number of values of the batch with share x, a f32[..., C].

    The variance is the mean of squared distances: E[x^2] - E[x]^2 would lose digits that the
    reference keeps. Every device takes those from the mean of its own share, so that the devices
    exchange numbers once: the whole variance is the mean of theirs, plus that of their means.
    """
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    distance = x - per_channel(lax.stop_gradient(mean), x)  # the derivative by the mean is zero
    own = jnp.stack([mean, jnp.square(distance).mean(axes)])
    means, variances = jnp.moveaxis(everywhere(own[None]), 1, 0)  # each [devices, C]
    mean, var = means.mean(0), variances.mean(0) + means.var(0)
    return mean, var, device_count() * x.size // x.shape[-1]


def folded(params: Params, batch_stats: Params, dtype: Any) -> Params:
    """The parameters of a frozen network, prepared once instead of in every evaluation.

    A batch norm's become a gain and a shift that include its running statistics; convolution
    kernels are cast to the `dtype` in which convolutions compute. The network gives the same
    outputs with {"params": these}.
    """
    if "mean" in batch_stats:
        gain = params["scale"] / np.sqrt(batch_stats["var"] + EPSILON)
        return {"scale": gain, "bias": params["bias"] - batch_stats["mean"] * gain}
    result = {}
    for name, leaf in params.items():
        if isinstance(leaf, Mapping):
            result[name] = folded(leaf, batch_stats.get(name, {}), dtype)
        else:
            result[name] = leaf.astype(dtype) if leaf.ndim == 4 else leaf
    return result
