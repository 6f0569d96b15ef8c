"""Parameters of modules, without flax's repeated check of shapes, which traces the initializer."""

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from sskd_jax.types import Array


def parameter(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
    """The float32 parameter of this name, made by `init` when the module is initialised.

    Where it is there already, flax's `param` traces its initialiser once more to compare shapes:
    a third of the time that it takes to trace a network.
    """
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    return module.param(name, init, shape, jnp.float32)
