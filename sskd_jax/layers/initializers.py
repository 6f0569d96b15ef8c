"""The initializers of the reference's networks."""

import jax
from flax.linen import initializers
from jax.nn.initializers import Initializer

from sskd_jax.types import Array

# normal(0, sqrt(2 / (k * k * out))): He et al. 2015 by fan-out; the reference's convolutions
# outside of the ShuffleNets.
fan_out_normal: Initializer = initializers.variance_scaling(2.0, "fan_out", "normal")

# PyTorch's default for weights, uniform(+-1 / sqrt(fan_in)), which it writes as
# kaiming_uniform(a=sqrt(5)).
fan_in_uniform: Initializer = initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_uniform(fan_in: int) -> Initializer:
    """PyTorch's default for the bias of a layer with `fan_in` inputs per output.

    It is uniform(+-1 / sqrt(fan_in)).
    """
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: type = float) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
