"""Self-supervised Knowledge Distillation Using Singular Value Decomposition (Lee, Kim, Song, ECCV 2018).

As RepDistiller has it: the relations of one map's singular vectors to those of the map before it.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sskd_jax.losses import map_pairs, normalized
from sskd_jax.methods.common import beside
from sskd_jax.types import Array, Batch, Method, Outputs, Params, UserError

SPARE = 3  # more of the student's vectors than are compared, for the alignment to choose from


@jax.custom_vjp
def finite_gradient(x: Array) -> Array:
    """x, whose gradient is 0 where it would not be finite: singular vectors of equal values have none."""
    return x


finite_gradient.defvjp(
    lambda x: (x, None), lambda _, gradient: (jnp.where(jnp.isfinite(gradient), gradient, 0),)
)


def decomposed(rows: Array) -> tuple[Array, Array]:
    """Singular values and right vectors.

    On a CPU of two cores, XLA's threads may wait for each other for ever where several batches are decomposed at once;
    so there it is image by image.
    """
    return jnp.linalg.svd(rows, full_matrices=False)[1:]


def directions(features: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest singular values [N, count] of maps [N, H, W, C] as [N, H * W, C], and their right vectors.

    Both are unit vectors; the right ones are [N, count, C].
    """
    rows = finite_gradient(features.astype(jnp.float32)).reshape(
        features.shape[0], -1, features.shape[-1]
    )
    values, vectors = lax.platform_dependent(
        rows, cpu=partial(lax.map, decomposed), default=decomposed
    )
    return normalized(values[:, :count]), normalized(vectors[:, :count])


def aligned(student: Array, teacher: Array) -> Array:
    """For every one of the teacher's vectors [N, k, C] the student's [N, K, C] that is most along it, with its sign."""
    cosine = jnp.einsum("nsc,ntc->nst", student, teacher, precision="highest")
    nearest = jnp.abs(cosine) == jnp.abs(cosine).max(1, keepdims=True)
    return jnp.einsum(
        "nsc,nst->ntc", student, jnp.where(nearest, jnp.sign(cosine), 0), precision="highest"
    )


def relation(after: Array, before: Array) -> Array:
    """Radial basis functions [N, k, C, D] of the differences of all entries of two maps' vectors."""
    return jnp.exp(-jnp.square(after[..., None] - before[:, :, None]) / 8)


def svd_loss(students: Sequence[Array], teachers: Sequence[Array], count: int) -> Array:
    """Squared differences of the relations between each map and the one before it: sums, the mean over the images."""
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


def kdsvd(*, count: int, kd_temperature: float) -> Method:
    """Over all maps behind the stem, which must be as wide as the teacher's."""

    def own(params: Params, student: Outputs, teacher: Outputs, batch: Batch) -> Array:
        students, teachers = zip(*map_pairs(student.maps, teacher.maps), strict=True)
        widths = [[features.shape[-1] for features in maps] for maps in (students, teachers)]
        if widths[0] != widths[1]:
            raise UserError(
                f"kdsvd compares maps of one width, but the student's have {widths[0]} channels and the "
                f"teacher's {widths[1]}: choose networks of one width"
            )
        return svd_loss(students, teachers, count)

    return beside({"svd": own}, kd_temperature=kd_temperature)
