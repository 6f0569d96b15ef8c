"""Paying More Attention to Attention (Zagoruyko, Komodakis, ICLR 2017), activation-based."""

import jax.numpy as jnp

from sskd_jax.losses import attention, map_pairs, same_size
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Method


def attention_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the attention of two maps, the larger one pooled to the other's size."""
    student, teacher = same_size(student, teacher)
    return jnp.mean(jnp.square(attention(student) - attention(teacher)))


def at(*, kd_temperature: float) -> Method:
    """The sum over all maps behind the stem."""
    return beside(
        {
            "at": lambda params, student, teacher, batch: sum(
                attention_loss(*pair) for pair in map_pairs(student.maps, teacher.maps)
            )
        },
        kd_temperature=kd_temperature,
    )
