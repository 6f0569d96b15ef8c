"""Learning Deep Representations with Probabilistic Knowledge Transfer (Passalis, Tefas, ECCV 2018)."""

import jax.numpy as jnp

from sskd_jax.losses import product
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Method

EPSILON = 1e-7


def neighbourhood(embed: Array) -> Array:
    """How likely each row of [N, D] picks each other as its neighbour, by cosine similarity: [N, N]."""
    norm = jnp.sqrt(
        jnp.sum(jnp.square(embed), 1, keepdims=True) + 1e-30
    )  # the root of 0 has no gradient
    unit = embed / (norm + EPSILON)
    similarity = (product(unit, unit.T) + 1) / 2
    return similarity / similarity.sum(1, keepdims=True)


def transfer_loss(student: Array, teacher: Array) -> Array:
    """Divergence of the students' probabilities from the teacher's, the mean over all pairs of rows."""
    student, teacher = neighbourhood(student), neighbourhood(teacher)
    return jnp.mean(teacher * jnp.log((teacher + EPSILON) / (student + EPSILON)))


def pkt(*, kd_temperature: float) -> Method:
    """On the embeddings of the global batch."""
    return beside(
        {
            "pkt": lambda params, student, teacher, batch: transfer_loss(
                student.embed, teacher.embed
            )
        },
        kd_temperature=kd_temperature,
    )
