"""Self-supervised Knowledge Distillation Using SVD (Lee, Kim, Song, ECCV 2018).

As RepDistiller has it: the relations of one map's singular vectors to those of the map before it.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sskd_jax.losses import map_pairs, normalized, same_widths
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Count, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs

SPARE = 3  # more of the student's vectors than are compared, for the alignment to choose from


@jax.custom_vjp
def finite_gradient(x: Array) -> Array:
    """x, whose gradient is 0 where it would not be finite.

    Singular vectors of equal values have none.
    """
    return x


def _forward(x: Array) -> tuple[Array, None]:
    return x, None


def _backward(_: None, gradient: Array) -> tuple[Array]:
    return (jnp.where(jnp.isfinite(gradient), gradient, 0),)


finite_gradient.defvjp(_forward, _backward)


def decomposed(rows: Array) -> tuple[Array, Array]:
    """Singular values and right vectors of matrices."""
    return jnp.linalg.svd(rows, full_matrices=False)[1:]


def directions(features: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest singular values [n, count] of maps [n, H, W, C] as [n, H * W, C].

    Beside them their right vectors [n, count, C]; values and vectors are scaled to length 1.
    """
    features = finite_gradient(features.astype(jnp.float32))
    rows = features.reshape(features.shape[0], -1, features.shape[-1])
    # On a CPU of two cores, XLA's threads may wait for each other for ever where several batches
    # are decomposed at once; so there it is image by image.
    one_by_one = partial(lax.map, decomposed)
    values, vectors = lax.platform_dependent(rows, cpu=one_by_one, default=decomposed)
    return normalized(values[:, :count]), normalized(vectors[:, :count])


def aligned(student: Array, teacher: Array) -> Array:
    """For every one of the teacher's vectors [n, k, C], the student's [n, K, C] most along it.

    It has the sign with which it points the same way.
    """
    cosine = jnp.einsum("nsc,ntc->nst", student, teacher, precision="highest")
    nearest = jnp.abs(cosine) == jnp.abs(cosine).max(1, keepdims=True)
    signs = jnp.where(nearest, jnp.sign(cosine), 0)
    return jnp.einsum("nsc,nst->ntc", student, signs, precision="highest")


def relation(after: Array, before: Array) -> Array:
    """Radial basis functions [n, k, C, D] of the differences of two maps' vectors."""
    return jnp.exp(-jnp.square(after[..., None] - before[:, :, None]) / 8)


def svd_loss(students: Sequence[Array], teachers: Sequence[Array], count: int) -> Array:
    """Squared differences of the relations between each map and the one before it.

    They are summed over maps and entries; the mean over the images.
    """
    total, before = jnp.zeros(()), None
    for student, teacher in zip(students, teachers, strict=True):
        values, theirs = directions(teacher, count)
        ours = aligned(directions(student, count + SPARE)[1], theirs)
        now = [vectors * values[..., None] for vectors in (ours, theirs)]
        if before:
            student_relation, teacher_relation = map(relation, now, before)
            total += jnp.sum(jnp.square(student_relation - teacher_relation))
        before = now
    return total / students[0].shape[0]


def kdsvd(*, count: Count, kd_temperature: Positive) -> Method:
    """Over all maps behind the stem, which must be as wide as the teacher's."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        students, teachers = zip(*map_pairs(student.maps, teacher.maps), strict=True)
        same_widths("kdsvd", students, teachers)
        return Losses({"svd": svd_loss(students, teachers, count)})

    return with_kd(("svd",), own, kd_temperature=kd_temperature)
