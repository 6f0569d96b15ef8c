"""Equations that two or more methods share: predictions first, targets second. Means over rows, in float32."""
import jax
import jax.numpy as jnp
import optax

from sskd_jax.types import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the rows of -log softmax(logits [N, K])[label]; labels are class numbers [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def soft_divergence(student: Array, teacher: Array, *, temperature: float, keep: Array | None = None) -> Array:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the rows [N, K] that `keep` [N] marks.

    Hinton et al. 2015; the factor T^2 keeps the gradient's size independent of T. Nothing kept gives 0.
    """
    log_student = jax.nn.log_softmax(student / temperature)
    log_teacher = jax.nn.log_softmax(teacher / temperature)
    rows = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), -1)
    keep = jnp.ones_like(rows) if keep is None else keep.astype(rows.dtype)
    return temperature**2 * jnp.sum(rows * keep) / jnp.maximum(keep.sum(), 1)


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of the rows [N, K] whose largest logit is that of the label [N]."""
    return jnp.mean(logits.argmax(-1) == labels)
