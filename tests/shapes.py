"""The shapes of a network's outputs and variables, without computing them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.types import Outputs


def shapes(network: nn.Module, image: tuple[int, ...]) -> tuple[Outputs, dict[str, Any]]:
    """The shapes of a network's outputs for two images [H, W, C], and of its variables."""
    pixels = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), pixels)
