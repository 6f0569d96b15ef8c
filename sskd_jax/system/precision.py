"""The dtype in which networks compute."""

from typing import Any

import jax
import jax.numpy as jnp

from sskd_jax.types import choose


def compute_dtype(name: str, device: jax.Device) -> Any:
    """The dtype of the networks; parameters, batch statistics and losses are float32 anyway.

    "auto" is bfloat16 where it is fast: not on CPUs, nor on NVIDIA's GPUs before Ampere, such as
    the T4 and the V100, which compute it in float32.
    """
    generation = getattr(device, "compute_capability", "").partition(".")[0]
    is_old = generation.isdecimal() and int(generation) < 8
    auto = jnp.float32 if device.platform == "cpu" or is_old else jnp.bfloat16
    dtypes = {"auto": auto, "float32": jnp.float32, "bfloat16": jnp.bfloat16}
    return choose(dtypes, name, "dtype")
