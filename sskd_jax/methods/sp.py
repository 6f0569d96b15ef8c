"""Similarity-Preserving Knowledge Distillation (Tung, Mori, ICCV 2019)."""

import jax.numpy as jnp

from sskd_jax.axis import everywhere
from sskd_jax.losses import last_map, normalized, product
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def similarities(features: Array) -> Array:
    """Inner products [N, N] of all images' activations [N, ...], with rows scaled to length 1."""
    rows = features.reshape(features.shape[0], -1)
    return normalized(product(rows, rows.T))


def similarity_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the two matrices of similarities."""
    return jnp.mean(jnp.square(similarities(student) - similarities(teacher)))


def sp(*, kd_temperature: Positive) -> Method:
    """The term `sp`, on the last map before the pooling, of the whole batch."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        # In float32 before they are gathered, as the gradient is summed over the devices there.
        maps = [last_map(network.maps) for network in (student, teacher)]
        return Losses({"sp": similarity_loss(*everywhere(maps))})

    return with_kd(("sp",), own, kd_temperature=kd_temperature)
