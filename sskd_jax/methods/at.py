"""Paying More Attention to Attention (Zagoruyko, Komodakis, ICLR 2017), activation-based."""

import jax.numpy as jnp

from sskd_jax.losses import attention, map_pairs, same_size
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def attention_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of two maps' attention; the larger is pooled to the other's size."""
    student, teacher = same_size(student, teacher)
    return jnp.mean(jnp.square(attention(student) - attention(teacher)))


def at(*, kd_temperature: Positive) -> Method:
    """The term `at`: the sum over all maps after the stem."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        pairs = map_pairs(student.maps, teacher.maps)
        return Losses({"at": sum(attention_loss(*pair) for pair in pairs)})

    return with_kd(("at",), own, kd_temperature=kd_temperature)
