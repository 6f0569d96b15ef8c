"""Correlation Congruence for Knowledge Distillation (Peng et al., ICCV 2019).

As in RepDistiller.
"""

import jax.numpy as jnp

from sskd_jax.axis import everywhere
from sskd_jax.layers.heads import Linear
from sskd_jax.methods.common import with_kd
from sskd_jax.rules import Count, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs, learns


def correlation_loss(student: Array, teacher: Array) -> Array:
    """Mean inner product of neighbouring rows' absolute differences [N, D] from the teacher's."""
    delta = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(delta[:-1] * delta[1:], 1))


def cc(*, width: Count, kd_temperature: Positive) -> Method:
    """The term `cc`, on both networks' embeddings of the whole batch, projected to `width`."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        ours = nets["student_embed"](student.embed)
        theirs = nets["teacher_embed"](teacher.embed)
        return Losses({"cc": correlation_loss(*everywhere((ours, theirs)))})

    spaces = {"student_embed": learns(Linear(width)), "teacher_embed": learns(Linear(width))}
    return with_kd(("cc",), own, kd_temperature=kd_temperature, nets=spaces)
