"""Decoupled Knowledge Distillation (Zhao, Cui, Song, Qiu, Liang, CVPR 2022)."""

import jax
import jax.numpy as jnp

from sskd_jax.axis import share
from sskd_jax.losses import compared_logits, row_divergence
from sskd_jax.methods.common import taught
from sskd_jax.rules import Flag, Index, Positive
from sskd_jax.types import Array, Batch, Losses, Method, Nets, Outputs


def target_divergence(student: Array, teacher: Array, labels: Array) -> Array:
    """KL between the two-way predictions "this class or another" (TCKD), of logits [N, K]."""
    is_target = jax.nn.one_hot(labels, student.shape[1], dtype=bool)

    def two_way(logits: Array) -> Array:
        """Logits [N, 2]: the logs of the label's probability and of all others' together."""
        log_prediction = jax.nn.log_softmax(logits)
        return jnp.stack(
            [
                jax.nn.logsumexp(jnp.where(chosen, log_prediction, -jnp.inf), 1)
                for chosen in (is_target, ~is_target)
            ],
            1,
        )

    return row_divergence(two_way(student), two_way(teacher)).mean()


def other_divergence(student: Array, teacher: Array, labels: Array) -> Array:
    """KL between the predictions among all classes but the label's (NCKD), of logits [N, K]."""
    is_target = jax.nn.one_hot(labels, student.shape[1], dtype=bool)

    def among_others(logits: Array) -> Array:
        return jnp.where(is_target, -1e9, logits)

    return row_divergence(among_others(student), among_others(teacher)).mean()


def dkd(*, temperature: Positive, warmup_epochs: Index, standardize: Flag, shift: Flag) -> Method:
    """The terms `tckd` and `nckd`, times T^2; they rise over `warmup_epochs`, as in its code.

    `standardize` compares standardized logits instead of the logits themselves, and `shift` makes
    the label's logit the teacher's largest (see `losses.shifted`).
    """

    def own(nets: Nets, batch: Batch, student: Outputs, teacher: Outputs) -> Losses:
        label = share(batch.label)
        pair = compared_logits(student, teacher, standardize, label if shift else None)
        ours, theirs = (logits / temperature for logits in pair)
        scale = temperature**2 * jnp.minimum((batch.epoch + 1) / max(1, warmup_epochs), 1)
        tckd = scale * target_divergence(ours, theirs, label)
        nckd = scale * other_divergence(ours, theirs, label)
        return Losses({"tckd": tckd, "nckd": nckd})

    return taught(("tckd", "nckd"), own)
