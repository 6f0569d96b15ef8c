"""Understanding the Role of the Projector in Knowledge Distillation (Miles et al., AAAI 2024).

"A simple recipe": a linear projector of the student's pooled feature, batch norm of both features,
and the logarithm of the distances, which gives less weight to features that are learned well.

    representation = ln sum |BN(W f_s + b) - BN(f_t)|^4, over all images and columns
    kd             = T^2 KL(softmax(t / T) || softmax(s / T)), with T 1 in the released code
"""

import jax.numpy as jnp

from sskd_jax.axis import everywhere
from sskd_jax.layers.heads import Projector
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, learns

EPSILON = 1e-4  # of the batch norms, which have no parameters


def batch_normed(rows: Array) -> Array:
    """Every column [N, D] minus its mean, divided by its standard deviation in this batch."""
    variance = rows.var(0, keepdims=True)
    return (rows - rows.mean(0, keepdims=True)) / jnp.sqrt(variance + EPSILON)


def representation_loss(student: Array, teacher: Array) -> Array:
    """The logarithm of the distances of embeddings [N, D], which grows with the batch."""
    difference = batch_normed(student) - batch_normed(teacher)
    return jnp.log(jnp.maximum(jnp.sum(difference**4), 1e-30))


def srd(*, kd_temperature: Positive) -> Method:
    """The term `representation` on embeddings of the whole batch, and KD on the logits."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        projected = everywhere(nets["projector"](student.embed, teacher.embed))
        return Losses({"representation": representation_loss(projected, everywhere(teacher.embed))})

    nets = {"projector": learns(Projector())}
    return with_kd(("representation",), own, kd_temperature=kd_temperature, nets=nets)
