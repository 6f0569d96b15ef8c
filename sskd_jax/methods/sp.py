"""Similarity-Preserving Knowledge Distillation (Tung, Mori, ICCV 2019)."""

import jax.numpy as jnp

from sskd_jax.losses import normalized, product
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Method


def similarities(features: Array) -> Array:
    """Products of the activations [N, ...] of every image with every other one, in unit rows [N, N]."""
    rows = features.reshape(features.shape[0], -1)
    return normalized(product(rows, rows.T))


def similarity_loss(student: Array, teacher: Array) -> Array:
    """Mean squared difference of the two matrices."""
    return jnp.mean(jnp.square(similarities(student) - similarities(teacher)))


def sp(*, kd_temperature: float) -> Method:
    """On the last map in front of the pooling, of the global batch."""
    return beside(
        {
            "sp": lambda params, student, teacher, batch: similarity_loss(
                student.maps[-1].astype(jnp.float32), teacher.maps[-1].astype(jnp.float32)
            )
        },
        kd_temperature=kd_temperature,
        gathered=slice(-1, None),
    )
