"""Self-supervised Knowledge Distillation Using SVD (Lee, Kim, Song, ECCV 2018).

As in RepDistiller: the relations of a map's singular vectors to those of the map before it.
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

SPARE = 3  # further vectors of the student from which the alignment may choose
BREADTH = 8  # of the radial basis functions, twice their variance, in RepDistiller


@jax.custom_vjp
def finite_gradient(x: Array) -> Array:
    """x, whose gradient is 0 where it would not be finite.

    The gradient of singular vectors with equal singular values is not.
    """
    return x


def _forward(x: Array) -> tuple[Array, None]:
    return x, None


def _backward(_: None, gradient: Array) -> tuple[Array]:
    return (jnp.where(jnp.isfinite(gradient), gradient, 0),)


finite_gradient.defvjp(_forward, _backward)


def decomposed(rows: Array) -> tuple[Array, Array]:
    """The singular values and right singular vectors of matrices."""
    return jnp.linalg.svd(rows, full_matrices=False)[1:]


def directions(features: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest singular values [n, count] and right vectors [n, count, C] of maps.

    A map of [n, H, W, C] is taken as a matrix [H * W, C]. The values of an image are scaled to
    length 1 together, and each vector is.
    """
    features = finite_gradient(features.astype(jnp.float32))
    rows = features.reshape(features.shape[0], -1, features.shape[-1])
    # On a CPU of two cores, XLA's threads may deadlock when several batches are decomposed at
    # once; so on the CPU it is done image by image.
    one_by_one = partial(lax.map, decomposed)
    values, vectors = lax.platform_dependent(rows, cpu=one_by_one, default=decomposed)
    return normalized(values[:, :count]), normalized(vectors[:, :count])


def aligned(student: Array, teacher: Array) -> Array:
    """For each of the teacher's vectors [n, k, C], the most parallel of the student's [n, K, C].

    Its sign is chosen such that both point the same way.
    """
    cosine = jnp.einsum("nsc,ntc->nst", student, teacher, precision="highest")
    nearest = jnp.abs(cosine) == jnp.abs(cosine).max(1, keepdims=True)
    signs = jnp.where(nearest, jnp.sign(cosine), 0)
    return jnp.einsum("nsc,nst->ntc", student, signs, precision="highest")


def relation(after: Array, before: Array) -> Array:
    """Radial basis functions [n, k, C, D] of the differences of two maps' vectors."""
    return jnp.exp(-jnp.square(after[..., None] - before[:, :, None]) / BREADTH)


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
    """The term `svd`, over all maps after the stem, where both networks must be equally wide."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        students, teachers = zip(*map_pairs(student.maps, teacher.maps), strict=True)
        same_widths("kdsvd", students, teachers)
        return Losses({"svd": svd_loss(students, teachers, count)})

    return with_kd(("svd",), own, kd_temperature=kd_temperature)
