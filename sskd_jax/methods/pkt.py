"""Learning Deep Representations with Probabilistic Knowledge Transfer (Passalis, Tefas 2018)."""

import jax.numpy as jnp

from sskd_jax.axis import everywhere
from sskd_jax.losses import product
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs

EPSILON = 1e-7


def neighbourhood(embed: Array) -> Array:
    """The probabilities [N, N] with which each row of [N, D] picks each row as its neighbour.

    They are proportional to the rows' cosine similarity, rescaled to 0 ... 1.
    """
    squares = jnp.sum(jnp.square(embed), 1, keepdims=True)
    norm = jnp.sqrt(squares + 1e-30)  # the root of 0 has no gradient
    unit = embed / (norm + EPSILON)
    similarity = (product(unit, unit.T) + 1) / 2
    return similarity / similarity.sum(1, keepdims=True)


def transfer_loss(student: Array, teacher: Array) -> Array:
    """Divergence of the student's probabilities from the teacher's, the mean over pairs of rows."""
    student, teacher = neighbourhood(student), neighbourhood(teacher)
    return jnp.mean(teacher * jnp.log((teacher + EPSILON) / (student + EPSILON)))


def pkt(*, kd_temperature: Positive) -> Method:
    """The term `pkt`, on the embeddings of the whole batch."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        return Losses({"pkt": transfer_loss(*everywhere((student.embed, teacher.embed)))})

    return with_kd(("pkt",), own, kd_temperature=kd_temperature)
