"""What a network gives and holds, without computing it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sskd_jax.types import Outputs


def shapes(network: nn.Module, image: tuple[int, ...]) -> tuple[Outputs, dict[str, Any]]:
    """Outputs for two images [H, W, C], and variables; shapes only."""
    pixels = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    return jax.eval_shape(network.init_with_output, jax.random.key(0), pixels)
