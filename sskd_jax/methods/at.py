"""Paying More Attention to Attention (Zagoruyko, Komodakis, ICLR 2017), activation-based."""
import jax.numpy as jnp

from sskd_jax.beside import beside
from sskd_jax.losses import map_pairs, normalized, same_size
from sskd_jax.types import Array, Method


def attention(features: Array) -> Array:
    """The squares' mean over the channels of a map [N, H, W, C], as unit vectors [N, H * W]."""
    return normalized(jnp.mean(jnp.square(features), -1).reshape(features.shape[0], -1))


def attention_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the attention of two maps, the larger one pooled to the other's size."""
    student, teacher = same_size(student, teacher)
    return jnp.mean(jnp.square(attention(student) - attention(teacher)))


def at(*, kd_temperature: float) -> Method:
    """The sum over all maps behind the stem."""
    return beside("at", lambda params, student, teacher, batch: sum(
        attention_loss(*pair) for pair in map_pairs(student, teacher)), kd_temperature=kd_temperature)
