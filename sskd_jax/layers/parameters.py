"""Parameters of modules, without flax's repeated check of shapes, which traces the initializer."""

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from sskd_jax.types import Array


def parameter(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
    """The float32 parameter of this name, made by `init` when the module is initialised.

    For a parameter that exists already, flax's `param` traces the initializer again to compare
    shapes, which takes a third of the time of tracing a network.
    """
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    return module.param(name, init, shape, jnp.float32)
