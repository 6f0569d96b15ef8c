"""Correlation Congruence for Knowledge Distillation (Peng et al., ICCV 2019), as RepDistiller has it."""

from functools import partial

import jax.numpy as jnp

from sskd_jax.layers.heads import embeds, init_embeds
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Method


def correlation_loss(student: Array, teacher: Array) -> Array:
    """Products of how far each row [N, D] and the next one are from the teacher's, the mean over the pairs."""
    delta = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(delta[:-1] * delta[1:], 1))


def cc(*, width: int, kd_temperature: float) -> Method:
    """On embeddings of both networks, of the global batch, in a common space."""
    return beside(
        {
            "cc": lambda params, student, teacher, batch: correlation_loss(
                *embeds(params, student, teacher, width)
            )
        },
        init=partial(init_embeds, width=width),
        kd_temperature=kd_temperature,
    )
