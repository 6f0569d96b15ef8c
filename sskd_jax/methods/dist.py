"""Knowledge Distillation from A Stronger Teacher (Huang, You, Wang, Qian, Xu, NeurIPS 2022)."""

import jax
import jax.numpy as jnp

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import compared_logits
from sskd_jax.methods.common import taught
from sskd_jax.rules import Flag, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def pearson(a: Array, b: Array) -> Array:
    """Correlation of the rows of a and b [N, K], the mean over the rows; a constant row gives 0."""
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return jnp.mean(jnp.sum(a * b, 1) / (norm(a) * norm(b) + 1e-8))


def norm(rows: Array) -> Array:
    """The lengths of rows [N, K]; that of a row of zeros has the gradient 0.

    Nothing is added to the squares: certain predictions leave rows as short as 1e-8.
    """
    squares = jnp.sum(jnp.square(rows), 1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def relations(student: Array, teacher: Array, temperature: float) -> tuple[Array, Array]:
    """(inter, intra): distances of the predictions of logits [N, K].

    Between the classes of an image, and between the images of a class; both are 1 - the mean
    correlation, times T^2.
    """
    student, teacher = (jax.nn.softmax(logits / temperature) for logits in (student, teacher))
    inter = 1 - pearson(student, teacher)
    intra = 1 - pearson(student.T, teacher.T)
    return temperature**2 * inter, temperature**2 * intra


def dist(*, temperature: Positive, standardize: Flag, shift: Flag) -> Method:
    """The two relations, of logits or of standardized logits of the whole batch.

    `shift` has the teacher's largest logit be the label's (see `losses.shifted`).
    """

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        label = share(batch.label) if shift else None
        logits = compared_logits(student, teacher, standardize, label)
        inter, intra = relations(*everywhere(logits), temperature)
        return Losses({"inter": inter, "intra": intra})

    return taught(("inter", "intra"), own)
