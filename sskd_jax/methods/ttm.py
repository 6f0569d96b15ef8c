"""Knowledge Distillation Based on Transformed Teacher Matching (Zheng, Yang, ICLR 2024).

The teacher's probabilities p are raised to the power 1 / T, and the student's are unchanged. This
is KD with a temperature for the teacher only, and without the factor T^2.

    q = p^(1/T) / Z,  Z = sum_k p_k^(1/T)
    TTM  = mean_i KL(q_i || softmax(s_i))
    WTTM = mean_i Z_i KL(q_i || softmax(s_i))

Z is 1 for a teacher that is certain, and larger the less certain it is (for T > 1).
"""

import jax
import jax.numpy as jnp

from sskd_jax.axis import share
from sskd_jax.losses import compared_logits, row_divergence
from sskd_jax.methods.common import taught
from sskd_jax.rules import Flag, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def power_sum(logits: Array, temperature: float) -> Array:
    """Z of the predictions of logits [N, K]: [N]."""
    return jnp.exp(jax.nn.logsumexp(jax.nn.log_softmax(logits) / temperature, 1))


def matching(student: Array, teacher: Array, temperature: float) -> Array:
    """KL(q || softmax(student)) of every row of logits [N, K]: [N]."""
    return row_divergence(student, teacher / temperature)


def ttm(*, temperature: Positive, shift: Flag) -> Method:
    """The term `ttm`; `shift` makes the label's logit the teacher's largest."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        label = share(batch.label) if shift else None
        pair = compared_logits(student, teacher, False, label)
        return Losses({"ttm": matching(*pair, temperature).mean()})

    return taught(("ttm",), own)


def wttm(*, temperature: Positive, shift: Flag) -> Method:
    """The term `wttm`; `shift` makes the label's logit the teacher's largest."""

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        label = share(batch.label) if shift else None
        pair = compared_logits(student, teacher, False, label)
        rows = power_sum(pair[1], temperature) * matching(*pair, temperature)
        return Losses({"wttm": rows.mean()})

    return taught(("wttm",), own)
