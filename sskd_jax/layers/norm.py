"""Batch norm with PyTorch's meaning, and what a frozen network computes from its weights alone."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import initializers as init
from jax import lax

from sskd_jax.types import Array, Params

EPSILON = 1e-5  # PyTorch's, beside the variance


def per_channel(vector: Array, x: Array) -> Array:
    """vector [C], to be combined with x [..., C]."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class BatchNorm(nn.Module):
    """Batch norm over all but the last axis, as PyTorch's, whose running variance is the unbiased one.

    Attributes:
      train: normalise by the batch and move the running statistics, instead of normalising by them.
      axis_name: pmap axis over which the batch is spread; its statistics are then those of the global batch.
    """

    train: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    momentum: float = 0.9  # PyTorch calls the same thing 0.1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gain = self.param("scale", init.ones, x.shape[-1:], jnp.float32)
        shift = self.param("bias", init.zeros, x.shape[-1:], jnp.float32)
        if (
            self.train or self.is_initializing() or self.has_variable("batch_stats", "mean")
        ):  # else they are `folded`
            mean, var = self.statistics(x)
            gain = gain * lax.rsqrt(var + EPSILON)
            shift = shift - mean * gain
        return (x.astype(jnp.float32) * per_channel(gain, x) + per_channel(shift, x)).astype(
            self.dtype
        )

    def statistics(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance [C] to normalise by; in training the running ones move."""
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:], jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, x.shape[-1:], jnp.float32)
        if not self.train or self.is_initializing():
            return running_mean.value, running_var.value
        mean, var, count = self.batch_statistics(x)
        running_mean.value = self.moved(running_mean.value, mean)
        running_var.value = self.moved(running_var.value, var * (count / (count - 1)))
        return mean, var

    def batch_statistics(self, x: Array) -> tuple[Array, Array, int]:
        """Mean [C], biased variance [C] and number of values of the global batch, in float32 whatever x is.

        The variance is the mean of squared distances: E[x^2] - E[x]^2 would lose digits that the reference keeps. Its
        derivative by the mean is zero.
        """
        x, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
        mean = self.over_devices(x.mean(axes))
        var = self.over_devices(jnp.square(x - per_channel(lax.stop_gradient(mean), x)).mean(axes))
        devices = lax.axis_size(self.axis_name) if self.axis_name else 1
        return mean, var, devices * x.size // x.shape[-1]

    def over_devices(self, mean: Array) -> Array:
        return lax.pmean(mean, self.axis_name) if self.axis_name else mean

    def moved(self, running: Array, batch: Array) -> Array:
        return self.momentum * running + (1 - self.momentum) * batch


def folded(params: Params, batch_stats: Params, dtype: Any) -> Params:
    """The parameters of a frozen network, with what evaluation would compute from them alone in every step.

    A batch norm's are a gain and a shift, with its running statistics in them; kernels of convolutions have the `dtype`
    that these compute in. The network takes {"params": these} and gives the same outputs.
    """
    if "mean" in batch_stats:
        gain = params["scale"] / np.sqrt(batch_stats["var"] + EPSILON)
        return {"scale": gain, "bias": params["bias"] - batch_stats["mean"] * gain}
    return {
        name: folded(leaf, batch_stats.get(name, {}), dtype)
        if isinstance(leaf, Mapping)
        else leaf.astype(dtype)
        if leaf.ndim == 4
        else leaf
        for name, leaf in params.items()
    }
