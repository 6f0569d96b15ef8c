"""Knowledge Distillation from A Stronger Teacher (Huang, You, Wang, Qian, Xu, NeurIPS 2022)."""

import jax
import jax.numpy as jnp

from sskd_jax.axis import everywhere, share
from sskd_jax.losses import compared_logits
from sskd_jax.methods.common import taught
from sskd_jax.rules import Flag, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def pearson(a: Array, b: Array) -> Array:
    """Mean over the rows of their correlation in a and b [N, K]; a constant row counts 0."""
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return jnp.mean(jnp.sum(a * b, 1) / (norm(a) * norm(b) + 1e-8))


def norm(rows: Array) -> Array:
    """The lengths of rows [N, K]; that of a row of zeros has the gradient 0.

    Nothing is added to the squares, as confident predictions give rows as short as 1e-8.
    """
    squares = jnp.sum(jnp.square(rows), 1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def relations(student: Array, teacher: Array, temperature: float) -> tuple[Array, Array]:
    """(inter, intra): T^2 (1 - the mean correlation of both networks' predictions).

    The predictions are those of logits [N, K]. inter correlates the classes of every image, and
    intra the images of every class.
    """
    student, teacher = (jax.nn.softmax(logits / temperature) for logits in (student, teacher))
    inter = 1 - pearson(student, teacher)
    intra = 1 - pearson(student.T, teacher.T)
    return temperature**2 * inter, temperature**2 * intra


def dist(*, temperature: Positive, standardize: Flag, shift: Flag) -> Method:
    """The two relations, of the logits or the standardized logits of the whole batch.

    `shift` makes the label's logit the teacher's largest (see `losses.shifted`).
    """

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        label = share(batch.label) if shift else None
        logits = compared_logits(student, teacher, standardize, label)
        inter, intra = relations(*everywhere(logits), temperature)
        return Losses({"inter": inter, "intra": intra})

    return taught(("inter", "intra"), own)
