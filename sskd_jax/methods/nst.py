"""Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (Huang, Wang 2017)."""

import jax
import jax.numpy as jnp

from sskd_jax.losses import map_pairs, normalized, same_size
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def kernel_mean(a: Array, b: Array) -> Array:
    """The mean polynomial kernel of two sets of channels, unit vectors [n, C, P] and [n, D, P]."""
    products = jnp.einsum("ncp,ndp->ncd", a, b, precision="highest")
    return jnp.mean(jnp.square(products))


def selectivity(features: Array) -> Array:
    """The activations of each channel of a map [n, H, W, C], as unit vectors [n, C, H * W]."""
    places = features.reshape(features.shape[0], -1, features.shape[-1])
    return normalized(places.swapaxes(1, 2))


def discrepancy(student: Array, teacher: Array) -> Array:
    """Maximum mean discrepancy of two maps' channels, the larger map pooled to the other's size."""
    student, teacher = map(selectivity, same_size(student, teacher))
    among_teacher = jax.lax.stop_gradient(kernel_mean(teacher, teacher))
    among_student = kernel_mean(student, student)
    return among_teacher + among_student - 2 * kernel_mean(student, teacher)


def nst(*, kd_temperature: Positive) -> Method:
    """The term `nst`: the sum over all maps after the stem."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        pairs = map_pairs(student.maps, teacher.maps)
        return Losses({"nst": sum(discrepancy(*pair) for pair in pairs)})

    return with_kd(("nst",), own, kd_temperature=kd_temperature)
