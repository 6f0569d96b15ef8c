"""Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (Huang, Wang 2017)."""

import jax
import jax.numpy as jnp

from sskd_jax.losses import map_pairs, normalized, same_size
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Method


def kernel_mean(a: Array, b: Array) -> Array:
    """Mean of the squared products of the channels' unit maps, [N, C, H * W] with [N, D, H * W] (polynomial kernel)."""
    return jnp.mean(jnp.square(jnp.einsum("ncp,ndp->ncd", a, b, precision="highest")))


def selectivity(features: Array) -> Array:
    """Where in a map [N, H, W, C] each channel responds: unit vectors [N, C, H * W]."""
    return normalized(features.reshape(features.shape[0], -1, features.shape[-1]).swapaxes(1, 2))


def discrepancy(student: Array, teacher: Array) -> Array:
    """Maximum mean discrepancy of the two maps' channels, the larger map pooled to the other's size."""
    student, teacher = map(selectivity, same_size(student, teacher))
    return (
        jax.lax.stop_gradient(kernel_mean(teacher, teacher))
        + kernel_mean(student, student)
        - 2 * kernel_mean(student, teacher)
    )


def nst(*, kd_temperature: float) -> Method:
    """The sum over all maps behind the stem."""
    return beside(
        {
            "nst": lambda params, student, teacher, batch: sum(
                discrepancy(*pair) for pair in map_pairs(student.maps, teacher.maps)
            )
        },
        kd_temperature=kd_temperature,
    )
