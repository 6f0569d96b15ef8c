"""Information Theoretic Representation Distillation (Miles et al., BMVC 2022).

The student's embedding g, which a linear layer brings to the width of the teacher's t, should
correlate with t in every column, and have its similarities between the images of the batch:

    correlation = log2 sum_j |c_j - 1|^(2 alpha), c_j = the mean over the images of g_j t_j, both
                  standardized over the batch
    mutual      = sum G_s^2 - sum (G_s * G_t)^2, of the cosines G = Z Z^T of the images' vectors,
                  where G_s and the product G_s * G_t are divided by their traces
"""

import jax.numpy as jnp

from sskd_jax.axis import everywhere
from sskd_jax.layers.heads import Projector
from sskd_jax.losses import normalized, product
from sskd_jax.methods.common import taught
from sskd_jax.rules import Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, learns


def standardized_columns(rows: Array) -> Array:
    """Every column [N, D] minus its mean, divided by its standard deviation.

    The deviation of a column that is constant up to rounding errors is replaced by 1.
    """
    variance = rows.var(0, ddof=1, keepdims=True)
    varies = variance > 1e-12 * jnp.square(rows).mean(0, keepdims=True)
    deviation = jnp.sqrt(jnp.where(varies, variance, 1))
    return (rows - rows.mean(0, keepdims=True)) / deviation


def correlation_loss(student: Array, teacher: Array, alpha: float) -> Array:
    """The log2 of how far the columns of two embeddings [N, D] are from a correlation of 1.

    The mean is over N and the deviation over N - 1, as in the released code, so a correlation
    stays below 1 and the logarithm finite.
    """
    correlation = jnp.mean(standardized_columns(student) * standardized_columns(teacher), 0)
    return jnp.log2(jnp.sum(jnp.square(correlation - 1) ** alpha))


def similarities(rows: Array) -> Array:
    """Cosines of all rows [N, D] with each other: [N, N]."""
    unit = normalized(rows)
    return product(unit, unit.T)


def mutual_loss(student: Array, teacher: Array) -> Array:
    """The difference `mutual` between the student's rows [N, d] and the teacher's [N, D]."""
    ours = similarities(student)
    both = ours * similarities(teacher)
    # The trace is the number of rows that are not zero.
    ours, both = (matrix / jnp.maximum(jnp.trace(matrix), 1e-6) for matrix in (ours, both))
    return jnp.sum(jnp.square(ours)) - jnp.sum(jnp.square(both))


def itrd(*, alpha: Positive) -> Method:
    """The terms on embeddings of the whole batch; `mutual` projects only if the widths differ."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        theirs = everywhere(teacher.embed)
        projected = everywhere(nets["projector"](student.embed, teacher.embed))
        is_as_wide = student.embed.shape == teacher.embed.shape
        ours = everywhere(student.embed) if is_as_wide else projected
        correlation = correlation_loss(projected, theirs, alpha)
        return Losses({"correlation": correlation, "mutual": mutual_loss(ours, theirs)})

    return taught(("correlation", "mutual"), own, nets={"projector": learns(Projector())})
