"""Relational Knowledge Distillation (Park, Kim, Lu, Cho, CVPR 2019)."""

import jax
import jax.numpy as jnp
import optax

from sskd_jax.axis import everywhere
from sskd_jax.losses import normalized, product
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import NotNegative, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def distances(embed: Array) -> Array:
    """Distances [N, N] between all rows [N, D], divided by the mean of those off the diagonal."""
    squares = jnp.sum(jnp.square(embed), 1)
    squared = jnp.maximum(squares[:, None] + squares[None] - 2 * product(embed, embed.T), 1e-12)
    off_diagonal = ~jnp.eye(embed.shape[0], dtype=bool)
    distance = jnp.where(off_diagonal, jnp.sqrt(squared), 0)
    return distance / (distance.sum() / off_diagonal.sum())


def angles(vertex: Array, embed: Array) -> Array:
    """[n, N, N]: the cosine, at every vertex [n, D], of the angle between each pair of [N, D]."""
    direction = normalized(embed[None] - vertex[:, None])
    return jnp.einsum("ijd,ikd->ijk", direction, direction, precision="highest")


def huber(student: Array, teacher: Array) -> Array:
    """Huber's loss with delta 1, the mean over all relations."""
    return jnp.mean(optax.huber_loss(student, teacher))


def rkd(
    *, distance_weight: NotNegative, angle_weight: NotNegative, kd_temperature: Positive
) -> Method:
    """The term `rkd`: distances and angles between the embeddings of the whole batch."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        shares = student.embed, jax.lax.stop_gradient(teacher.embed)
        wholes = everywhere(shares)
        distance_loss = huber(*map(distances, wholes))
        # Every device takes the angles at its own images, as all [N, N, N] would need much memory.
        angle_loss = huber(*map(angles, shares, wholes))
        return Losses({"rkd": distance_weight * distance_loss + angle_weight * angle_loss})

    return with_kd(("rkd",), own, kd_temperature=kd_temperature)
